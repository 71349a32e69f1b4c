//! Real programs across a link to the kernel's own stack in another network namespace: a veth with host sockets, a
//! veth through AF_PACKET, a TAP device that is there already, and one that netgraft makes. Both directions, both
//! families.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netgraft_e2e::Outcome;
use netgraft_e2e::column::{Column, Network, Object, User};
use netgraft_e2e::netns::{BLACKHOLE, FAR, NEAR, NEAR_INTERFACE, Namespace, Pair, without_prefix};
use netgraft_e2e::process::{Running, tail};
use netgraft_e2e::programs::{self, Family, Kit, Program};
use netgraft_e2e::report::{self, Job};
use netgraft_e2e::stage::Stage;
use rustix::process::Signal;

/// A link needs privileges over the namespace that it is in.
const ROOT: Column = Column { network: Network::Sandbox, user: User::Root };
const TAP: &str = "ngtap0";
/// How long a server may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// What joins the near side to the kernel's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// A veth whose near end has the kernel's addresses.
    Addressed,
    /// A veth through AF_PACKET.
    Packet,
    /// A TAP device made by the test.
    GivenTap,
    /// A TAP device made, and removed, by netgraft.
    OwnTap,
}

/// What is done to the frames on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapper {
    /// Nothing.
    None,
    /// They are recorded.
    Captured,
    /// They are recorded, delayed, doubled and reordered. Not lost: what a lost frame costs depends on a stack's timers, and
    /// programs wait for no more than their own.
    Faulty,
}

impl Wrapper {
    fn options(self) -> &'static [&'static str] {
        match self {
            Wrapper::None => &[],
            Wrapper::Captured => &["--pcap", "/dev/null"],
            Wrapper::Faulty => &[
                "--pcap",
                "/dev/null",
                "--link-delay",
                "1ms",
                "--link-duplicate",
                "0.5%",
                "--link-reorder",
                "0.5%",
                "--link-seed",
                "1",
            ],
        }
    }
}

/// A wire, what is done to its frames, and what serves the sockets of its near side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    wire: Wire,
    network: Network,
    wrapper: Wrapper,
}

const fn link(wire: Wire, network: Network) -> Link {
    Link { wire, network, wrapper: Wrapper::None }
}

const LINKS: [Link; 14] = [
    link(Wire::Addressed, Network::Native),
    link(Wire::Addressed, Network::Host),
    link(Wire::Packet, Network::Sandbox),
    link(Wire::GivenTap, Network::Sandbox),
    link(Wire::OwnTap, Network::Sandbox),
    link(Wire::Addressed, Network::Object(Object::Relay)),
    link(Wire::Packet, Network::Object(Object::Rust)),
    link(Wire::Packet, Network::Object(Object::Lwip)),
    link(Wire::GivenTap, Network::Object(Object::Rust)),
    link(Wire::GivenTap, Network::Object(Object::Lwip)),
    Link { wrapper: Wrapper::Captured, ..link(Wire::Packet, Network::Object(Object::Lwip)) },
    Link { wrapper: Wrapper::Captured, ..link(Wire::GivenTap, Network::Object(Object::Lwip)) },
    Link { wrapper: Wrapper::Faulty, ..link(Wire::Packet, Network::Object(Object::Lwip)) },
    Link { wrapper: Wrapper::Faulty, ..link(Wire::GivenTap, Network::Object(Object::Rust)) },
];

impl Link {
    /// How the closing table names it.
    fn column(self) -> String {
        let wire = format!("{:?}", self.wire).to_lowercase();
        if self.wrapper != Wrapper::None {
            let plain = Link { wrapper: Wrapper::None, ..self }.column();
            return format!("{plain}-{}", format!("{:?}", self.wrapper).to_lowercase());
        }
        match (self.network, self.wire) {
            (Network::Object(object), Wire::GivenTap) => format!("{}-tap", object.name()),
            (Network::Object(object), _) => object.name().to_owned(),
            (network, Wire::Addressed) => format!("{network:?}").to_lowercase(),
            _ => wire,
        }
    }

    /// Whether programs are run on it as they are in the reference.
    fn wants(self, program: Program, direction: Direction, family: Family) -> bool {
        let among = |names: &[&str]| names.contains(&program.name);
        match (self.network, self.wire) {
            (Network::Native, _) | (Network::Sandbox, Wire::Packet) => true,
            // Nothing of netgraft would be in it: the kernel answers a ping by itself.
            (Network::Host, _) if program.name == "ping" => direction == Direction::Out,
            // The two that take longest are once less.
            (Network::Host, _) if among(&["iperf3", "bulk"]) => {
                direction == Direction::In || family == Family::V4
            }
            (Network::Host, _) => true,
            (Network::Sandbox, Wire::OwnTap) => among(&["pyhttp", "ping"]) && family == Family::V4,
            (Network::Sandbox, _) => among(&["redis", "nginx", "iperf3", "faults", "ping", "bulk"]),
            (Network::Object(_), wire) if self.wrapper != Wrapper::None => match family {
                Family::V4 if wire == Wire::GivenTap => among(&["redis", "nginx"]),
                Family::V4 => among(&["redis", "nginx", "asyncio", "iperf3"]),
                Family::V6 => among(&["redis", "asyncio"]),
            },
            (Network::Object(object), wire) => match family {
                Family::V4 if wire == Wire::GivenTap => among(&["redis", "pyhttp"]),
                // Of lwIP a gigabyte each way is asked: the client of "bulk" takes one and gives one.
                Family::V4 if object == Object::Lwip && program.name == "bulk" => direction == Direction::In,
                Family::V4 => among(&["redis", "nginx", "asyncio", "iperf3"]),
                // Level 0 has no IPv6.
                Family::V6 if object == Object::Relay || wire == Wire::GivenTap => false,
                Family::V6 => among(&["redis", "nginx", "asyncio"]),
            },
            (Network::None, _) => false,
        }
    }
}

/// Which side the server is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// The server is in the sandbox.
    In,
    /// The client is in the sandbox.
    Out,
}

fn main() -> ExitCode {
    report::main("real programs across a link", jobs, Vec::new)
}

fn jobs(stage: &Stage) -> Result<Vec<Job<'_>>, String> {
    let kit = Arc::new(Kit::new(stage)?);
    let mut jobs = Vec::new();
    stage.build_objects()?;
    for link in LINKS {
        for direction in [Direction::In, Direction::Out] {
            for program in programs::ALL {
                for family in Family::BOTH {
                    if !link.wants(program, direction, family) {
                        continue;
                    }
                    let place = match direction {
                        Direction::In => "server in the sandbox",
                        Direction::Out => "client in the sandbox",
                    };
                    let kit = kit.clone();
                    let run = Box::new(move || run(stage, &kit, link, direction, program, family));
                    jobs.push(Job {
                        name: format!("{} over {}, {place}", program.name, family.name()),
                        column: link.column(),
                        skip: None,
                        run,
                    });
                }
            }
        }
    }
    Ok(jobs)
}

/// Both sides of a link, whatever it is.
struct Ground {
    near: Namespace,
    /// The kernel's side; with a TAP device it is the near namespace itself.
    far: Option<Namespace>,
    link: Link,
}

impl Ground {
    fn new(link: Link) -> Result<Self, String> {
        match link.wire {
            Wire::Addressed | Wire::Packet => {
                let Pair { near, far } = Pair::new(link.wire == Wire::Addressed)?;
                Ok(Ground { near, far: Some(far), link })
            }
            Wire::GivenTap => {
                let ground = Ground { near: Namespace::new()?, far: None, link };
                ground.near.ip(&["tuntap", "add", TAP, "mode", "tap"])?;
                ground.set_up_tap()?;
                Ok(ground)
            }
            Wire::OwnTap => Ok(Ground { near: Namespace::new()?, far: None, link }),
        }
    }

    fn kernel_side(&self) -> &Namespace {
        self.far.as_ref().unwrap_or(&self.near)
    }

    fn set_up_tap(&self) -> Outcome {
        self.near.ip(&["link", "set", TAP, "up"])?;
        for address in FAR {
            self.near.ip(&["address", "add", address, "dev", TAP])?;
        }
        Ok(())
    }

    /// Gives the kernel's end of a TAP device its address, once netgraft has made it.
    fn await_tap(&self) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.near.interfaces()?.iter().any(|name| name == TAP) {
            if Instant::now() > deadline {
                return Err(format!("netgraft made no interface {TAP}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.set_up_tap()
    }

    /// A network behind the server that answers nothing, so that a connect to it times out. A stack of netgraft's
    /// own needs no route: it has a gateway, and answers for nobody else.
    fn add_blackhole(&self, direction: Direction, sides: [&Namespace; 2], via: [&str; 2]) -> Outcome {
        let [server, client] = sides;
        let is_kernels = self.link.wire == Wire::Addressed;
        for (index, network) in ["10.99.0.0/24", "fd99::/64"].iter().enumerate() {
            if is_kernels || direction == Direction::Out {
                server.ip(&["route", "add", "blackhole", network])?;
            }
            if is_kernels || direction == Direction::In {
                client.ip(&["route", "add", network, "via", without_prefix(via[index])])?;
            }
        }
        Ok(())
    }

    fn near_words(&self, stage: &Stage, words: Vec<String>) -> Vec<String> {
        let network = match self.link.network {
            Network::Native => return words,
            Network::Host => "host",
            Network::Sandbox => "sandbox",
            Network::None => "none",
            Network::Object(_) => "plugin",
        };
        let mut all = vec![stage.netgraft().display().to_string()];
        all.extend(["run", "--join", "never", "--network", network, "--host-ids"].map(str::to_owned));
        if let Network::Object(object) = self.link.network {
            all.extend(["--plugin".to_owned(), stage.bin(object.name()).display().to_string()]);
            all.extend(object.options().iter().map(|word| (*word).to_owned()));
        }
        let link = match self.link.wire {
            Wire::Addressed => None,
            Wire::Packet => Some(format!("packet:{NEAR_INTERFACE}")),
            Wire::GivenTap | Wire::OwnTap => Some(format!("tap:{TAP}")),
        };
        all.extend(self.link.wrapper.options().iter().map(|word| (*word).to_owned()));
        if let Some(link) = link {
            all.extend(["--link", &link].map(str::to_owned));
            for (address, gateway) in NEAR.iter().zip(FAR) {
                all.extend(["--address", address, "--gateway", without_prefix(gateway)].map(str::to_owned));
            }
        }
        all.push("--".to_owned());
        all.extend(words);
        all
    }
}

fn run(
    stage: &Stage,
    kit: &Kit,
    link: Link,
    direction: Direction,
    program: Program,
    family: Family,
) -> Outcome {
    let ground = Ground::new(link)?;
    let before = ground.near.interfaces()?;
    let (server_side, client_side, address, other) = match direction {
        Direction::In => (&ground.near, ground.kernel_side(), NEAR, FAR),
        Direction::Out => (ground.kernel_side(), &ground.near, FAR, NEAR),
    };
    // A TAP device that is not there yet has no address to bind.
    let host = without_prefix(family.of(address));
    let bind = match (link.wire, direction) {
        (Wire::OwnTap, Direction::Out) => family.of(["0.0.0.0", "::"]),
        _ => host,
    };
    let mut server_scratch = stage.scratch(ROOT)?;
    let mut client_scratch = stage.scratch(ROOT)?;
    kit.describe(&mut server_scratch, host, bind);
    kit.describe(&mut client_scratch, host, without_prefix(family.of(other)));
    if program.name == "faults" && link.wire != Wire::OwnTap {
        ground.add_blackhole(direction, [server_side, client_side], address)?;
        client_scratch.set("BLACKHOLE", family.of(BLACKHOLE));
    }

    let words = |side: &Namespace, script: String| {
        let words = kit.script(&script, &[]);
        if std::ptr::eq(side, &ground.near) && (direction == Direction::In) == script.contains(".server.") {
            ground.near_words(stage, words)
        } else {
            words
        }
    };
    let server_words = words(server_side, format!("{}.server.sh", program.name));
    let client_words = words(client_side, format!("{}.client.sh", program.name));
    let start = |side: &Namespace, words: &[String], scratch, name| {
        Running::start(&mut side.command_as(User::Root, &stage.accounts(), words), scratch, name)
    };
    let server = start(server_side, &server_words, &server_scratch, "server")?;
    let client = match link.wire {
        // Whichever of the two is netgraft makes the device.
        Wire::OwnTap if direction == Direction::In => {
            ground.await_tap()?;
            start(client_side, &client_words, &client_scratch, "client")?
        }
        Wire::OwnTap => {
            let client = start(client_side, &client_words, &client_scratch, "client")?;
            ground.await_tap()?;
            client
        }
        _ => start(client_side, &client_words, &client_scratch, "client")?,
    };
    let outcome = client.finish(programs::LIMIT)?.success();
    let outcome = outcome.map_err(|why| format!("{why}the server printed:\n{}", tail(&server.output())));
    let stopped = stop(server, program);
    let left = ground.near.interfaces()?;
    let interfaces =
        if left == before { Ok(()) } else { Err(format!("interfaces {left:?}, before {before:?}")) };
    outcome.and(stopped).and(client_scratch.finish()).and(server_scratch.finish()).and(interfaces)
}

/// Ends a server as a person would: SIGTERM to what was started.
fn stop(server: Running, program: Program) -> Outcome {
    server.signal(Signal::TERM);
    let ended = server.finish(END)?;
    match ended.status {
        Some(_) => Ok(()),
        None => Err(format!("{} did not end on SIGTERM\n{}", program.name, tail(&ended.output))),
    }
}
