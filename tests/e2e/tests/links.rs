//! Real programs across a link to the kernel's own stack in another network namespace: a veth through
//! AF_PACKET, a TAP device that is there already, and one that netgraft makes. Both directions, both families.

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
const END: Duration = Duration::from_secs(10);

/// What joins the near side to the kernel's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// The kernel on both sides of a veth: the reference.
    Native,
    /// A veth through AF_PACKET.
    Packet,
    /// A TAP device made by the test.
    GivenTap,
    /// A TAP device made, and removed, by netgraft.
    OwnTap,
    /// A veth, and a shared object as the stack: through AF_PACKET, or with the kernel's addresses if the object's
    /// sockets are the kernel's.
    Through(Object),
}

impl Link {
    /// How the closing table names it.
    fn column(self) -> String {
        match self {
            Link::Through(object) => object.name().to_owned(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// Whether the near side has the kernel's addresses.
    fn is_kernels(self) -> bool {
        matches!(self, Link::Native | Link::Through(Object::Relay))
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

fn wanted(link: Link, program: Program, family: Family) -> bool {
    match link {
        Link::Native | Link::Packet => true,
        Link::GivenTap => ["redis", "nginx", "iperf3", "faults", "ping", "bulk"].contains(&program.name),
        Link::OwnTap => ["pyhttp", "ping"].contains(&program.name) && family == Family::V4,
        Link::Through(_) => {
            ["redis", "nginx", "asyncio", "iperf3"].contains(&program.name) && family == Family::V4
        }
    }
}

fn jobs(stage: &Stage) -> Result<Vec<Job<'_>>, String> {
    let kit = Arc::new(Kit::new(stage)?);
    let mut jobs = Vec::new();
    stage.build_objects()?;
    let objects = Object::ALL.map(Link::Through);
    for link in [Link::Native, Link::Packet, Link::GivenTap, Link::OwnTap].into_iter().chain(objects) {
        for direction in [Direction::In, Direction::Out] {
            for program in programs::ALL {
                for family in Family::BOTH {
                    if !wanted(link, program, family) {
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
        match link {
            Link::Native | Link::Packet | Link::Through(_) => {
                let Pair { near, far } = Pair::new(link.is_kernels())?;
                Ok(Ground { near, far: Some(far), link })
            }
            Link::GivenTap => {
                let ground = Ground { near: Namespace::new()?, far: None, link };
                ground.near.ip(&["tuntap", "add", TAP, "mode", "tap"])?;
                ground.set_up_tap()?;
                Ok(ground)
            }
            Link::OwnTap => Ok(Ground { near: Namespace::new()?, far: None, link }),
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
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.near.interfaces()?.iter().any(|name| name == TAP) {
            if Instant::now() > deadline {
                return Err(format!("netgraft made no interface {TAP}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.set_up_tap()
    }

    /// A network behind the server that answers nothing, so that a connect to it times out. Netgraft's side
    /// needs no route: it has a gateway, and answers for nobody else.
    fn add_blackhole(&self, direction: Direction, sides: [&Namespace; 2], via: [&str; 2]) -> Outcome {
        let [server, client] = sides;
        for (index, network) in ["10.99.0.0/24", "fd99::/64"].iter().enumerate() {
            if self.link == Link::Native || direction == Direction::Out {
                server.ip(&["route", "add", "blackhole", network])?;
            }
            if self.link == Link::Native || direction == Direction::In {
                client.ip(&["route", "add", network, "via", without_prefix(via[index])])?;
            }
        }
        Ok(())
    }

    fn near_words(&self, stage: &Stage, words: Vec<String>) -> Vec<String> {
        let link = match self.link {
            Link::Native => return words,
            Link::Packet | Link::Through(_) => format!("packet:{NEAR_INTERFACE}"),
            Link::GivenTap | Link::OwnTap => format!("tap:{TAP}"),
        };
        let mut all = vec![stage.netgraft().display().to_string(), "run".to_owned(), "--network".to_owned()];
        match self.link {
            Link::Through(object) => {
                let file = stage.bin(object.name()).display().to_string();
                all.extend(["plugin", "--plugin", &file].map(str::to_owned));
            }
            _ => all.push("sandbox".to_owned()),
        }
        if !self.link.is_kernels() {
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
    let bind = match (link, direction) {
        (Link::OwnTap, Direction::Out) => family.of(["0.0.0.0", "::"]),
        _ => host,
    };
    let mut server_scratch = stage.scratch(ROOT)?;
    let mut client_scratch = stage.scratch(ROOT)?;
    kit.describe(&mut server_scratch, host, bind);
    kit.describe(&mut client_scratch, host, without_prefix(family.of(other)));
    if program.name == "faults" && link != Link::OwnTap {
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
    let client = match link {
        // Whichever of the two is netgraft makes the device.
        Link::OwnTap if direction == Direction::In => {
            ground.await_tap()?;
            start(client_side, &client_words, &client_scratch, "client")?
        }
        Link::OwnTap => {
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
