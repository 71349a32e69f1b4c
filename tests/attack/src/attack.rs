//! The attacks, and one run of one of them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use netgraft_e2e::Outcome;
use netgraft_e2e::column::{Column, Network};
use netgraft_e2e::machine::run_tool;
use netgraft_e2e::netns::Namespace;
use netgraft_e2e::process::{Running, tail};
use netgraft_e2e::stage::Stage;

use crate::sentry::Usage;

/// The user ids of a sandbox that root starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The host's (`--host-ids`). The program of an ordinary user has that user's id in any case.
    Host,
    /// Nobody's, and the default profile.
    Own,
    /// The host's, and a link with an address, over which nobody is there.
    Linked,
}

/// One of the programs.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its name, by which the program knows it.
    pub name: &'static str,
    /// How long it goes on, in seconds.
    pub seconds: u32,
    /// The hard limit of descriptors (`RLIMIT_NOFILE`) under which netgraft and the program run.
    pub descriptors: Option<u32>,
    /// The points at which the sentry is looked at.
    pub checkpoints: &'static [&'static str],
    /// Options of `netgraft run`.
    pub options: &'static [&'static str],
    /// The most memory that the sentry may have at any checkpoint, in KiB.
    pub most_memory: Option<u64>,
    /// What the program must have said on the built-in stack: there is what it attacks.
    pub says: Option<&'static str>,
    /// A file of the host that the program is shown, where there is one: it would not be there otherwise.
    pub shown: Option<&'static str>,
    /// Whether it makes namespaces of its own or mounts file systems, which the default profile refuses.
    pub needs_namespaces: bool,
    /// How much memory the sentry may have more than before, in KiB: tables and buffers keep some of what they had.
    pub more_memory: u64,
}

const fn attack(name: &'static str, seconds: u32) -> Attack {
    Attack {
        name,
        seconds,
        descriptors: None,
        checkpoints: &[],
        options: &[],
        most_memory: None,
        says: None,
        shown: None,
        needs_namespaces: false,
        more_memory: 8 * 1024,
    }
}

/// All of them.
pub const ATTACKS: [Attack; 13] = [
    attack("takeover", 3),
    Attack { descriptors: Some(120), ..attack("pressure", 3) },
    attack("blocking", 3),
    Attack { descriptors: Some(2000), checkpoints: &["base", "peak", "end"], ..attack("in_flight", 3) },
    // Connections that were closed are remembered for a minute (TIME-WAIT), 65,536 at most.
    Attack {
        descriptors: Some(400),
        checkpoints: &["base", "peak", "end"],
        more_memory: 52 * 1024,
        ..attack("flood", 5)
    },
    // Measured every 50 ms: in that time some more comes. The built-in stack keeps 32 MiB of buffers for the next ones.
    Attack {
        more_memory: 40 * 1024,
        options: &["--max-memory", "64"],
        most_memory: Some(96 * 1024),
        says: Some("sockets are refused"),
        checkpoints: &["base", "peak", "end"],
        ..attack("hog", 3)
    },
    Attack { needs_namespaces: true, ..attack("rights", 3) },
    attack("linger", 3),
    Attack { shown: Some("/dev/fuse"), needs_namespaces: true, ..attack("fuse", 3) },
    attack("reused", 3),
    attack("stall", 3),
    attack("forge", 3),
    Attack { checkpoints: &["base", "half", "end"], ..attack("fuzz", 6) },
];

/// A TAP device of the namespace that the attack runs in.
const LINK: [&str; 4] = ["--link", "tap:ng0", "--address", "192.0.2.2/24"];
/// How many descriptors a sentry may have more than before an attack: those of threads that it knows are kept
/// (`netgraft_linux::task::CACHED`).
const MORE_DESCRIPTORS: usize = 256 + 16;
/// Held by an attack that others cannot run beside.
static ALONE: RwLock<()> = RwLock::new(());
/// How long a sentry may take to be as before.
const SETTLES: Duration = Duration::from_secs(10);
/// How long a process may take to end.
const STUCK: Duration = Duration::from_secs(20);
/// An attack may take so long beyond its own time: only one that is stuck, or a machine that does other things, does.
const GRACE: Duration = Duration::from_secs(120);

/// Compiles the programs.
///
/// # Errors
/// What the compiler printed.
pub fn compile(stage: &Stage) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let files = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let sources =
        files.flatten().map(|file| file.path()).filter(|path| path.extension() == Some(OsStr::new("c")));
    let mut sources: Vec<String> = sources.map(|path| path.display().to_string()).collect();
    sources.sort();
    let output = stage.bin("attack").display().to_string();
    let mut words = vec!["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", &output];
    words.extend(sources.iter().map(String::as_str));
    run_tool("cc", &words).map(drop)
}

/// Runs an attack in a column. Its program says itself whether everything held; that the sentry is as before, and
/// that nothing is left, is looked at here.
///
/// # Errors
/// What did not hold.
pub fn run(stage: &Stage, column: Column, ids: Ids, attack: &Attack, seed: u64) -> Outcome {
    // A user has one count of descriptors in flight: this attack would stop other sandboxes of its user from starting. And
    // the one that fills memory has to get there in its time.
    let (_alone, _beside) = match attack.name {
        "in_flight" | "hog" => (Some(ALONE.write()), None),
        _ => (None, Some(ALONE.read())),
    };
    let namespace = Namespace::new()?;
    let scratch = stage.scratch(column)?;
    let program = [
        stage.bin("attack").display().to_string(),
        attack.name.to_owned(),
        attack.seconds.to_string(),
        seed.to_string(),
    ];
    let mut command = limited(attack, ids, &column.command(stage, &namespace, &program));
    let mut running = Running::start(&mut command, &scratch, attack.name)?;
    let limit = Duration::from_secs(attack.seconds.into()) + GRACE;
    let seen = watch(&mut running, attack, column, &scratch.work(), scratch.mark(), Instant::now() + limit);
    let ended = running.finish(Duration::from_secs(10))?;
    let outcome = ended.success().and_then(|()| match ended.output.lines().any(|line| line == "HELD") {
        true => Ok(()),
        false => Err(format!("it did not come to its end\n{}", tail(&ended.output))),
    });
    let lacks = |says: &&str| column.network == Network::Sandbox && !ended.output.contains(says);
    let outcome = outcome.and_then(|()| match attack.says.filter(lacks) {
        Some(says) => Err(format!("it never said '{says}'\n{}", tail(&ended.output))),
        None => Ok(()),
    });
    let outcome = outcome
        .and_then(|()| as_before(attack, &seen?).map_err(|why| format!("{why}\n{}", tail(&ended.output))));
    outcome.and(scratch.finish()).and(nobody_is_stuck())
}

/// The same command under the attack's limit of descriptors, and with its ids and what it is shown.
fn limited(attack: &Attack, ids: Ids, command: &Command) -> Command {
    let limit = attack.descriptors.map(|n| ["prlimit".to_owned(), format!("--nofile={n}:{n}")]);
    let mut words: Vec<OsString> = limit.into_iter().flatten().map(OsString::from).collect();
    words.push(command.get_program().to_owned());
    for word in command.get_args() {
        match word.to_str() {
            Some("none") if ids == Ids::Linked => words.push("sandbox".into()),
            Some("--host-ids") if ids == Ids::Own => {}
            _ => words.push(word.to_owned()),
        }
        if word == "--host-ids" {
            if ids == Ids::Linked {
                words.extend(LINK.map(OsString::from));
            }
            words.extend(attack.options.iter().map(OsString::from));
        }
        if let Some(file) = attack.shown.filter(|file| word == "--host-ids" && Path::new(file).exists()) {
            words.extend(["--bind".into(), format!("{file}:{file}").into()]);
        }
    }
    let mut limited = Command::new(&words[0]);
    limited.args(&words[1..]);
    limited
}

/// Looks at the sentry whenever the program says that it has come to a checkpoint, until it has ended.
fn watch(
    running: &mut Running,
    attack: &Attack,
    column: Column,
    work: &Path,
    mark: &str,
    until: Instant,
) -> Result<BTreeMap<&'static str, Usage>, String> {
    let mut seen = BTreeMap::new();
    while running.is_running() && Instant::now() < until {
        let output = running.output();
        for name in attack.checkpoints.iter().filter(|name| !seen.contains_key(**name)).collect::<Vec<_>>() {
            if !output.lines().any(|line| line == format!("checkpoint {name}")) {
                continue;
            }
            if column.network != Network::Native {
                seen.insert(*name, settled(attack, name, mark, &seen)?);
            }
            let file = work.join(format!("seen-{name}"));
            fs::write(&file, "").map_err(|error| format!("{}: {error}", file.display()))?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(seen)
}

/// What the sentry uses at a checkpoint. At the last one it is waited for to be as before: the kernel collects what was
/// in flight in messages in its own time, and processes may still be ending.
fn settled(
    attack: &Attack,
    name: &'static str,
    mark: &str,
    seen: &BTreeMap<&'static str, Usage>,
) -> Result<Usage, String> {
    let until = Instant::now() + SETTLES;
    loop {
        let usage = Usage::now(mark)?;
        let base = seen.get("base").filter(|_| name == "end");
        if base.is_none_or(|base| is_as_before(attack, base, &usage)) || Instant::now() > until {
            return Ok(usage);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_as_before(attack: &Attack, base: &Usage, end: &Usage) -> bool {
    end.descriptors <= base.descriptors + MORE_DESCRIPTORS && end.memory <= base.memory + attack.more_memory
}

/// Asserts that a sentry has given back what it took.
fn as_before(attack: &Attack, seen: &BTreeMap<&'static str, Usage>) -> Outcome {
    let (Some(base), Some(end)) = (seen.get("base"), seen.get("end")) else { return Ok(()) };
    let all: Vec<String> = seen.iter().map(|(name, usage)| format!("{name}: {usage}")).collect();
    if let Some(most) = attack.most_memory.filter(|most| seen.values().any(|usage| usage.memory > *most)) {
        return Err(format!("the sentry has more than {most} KiB: {}", all.join("; ")));
    }
    if end.descriptors > base.descriptors + MORE_DESCRIPTORS {
        return Err(format!("the sentry keeps descriptors: {}", all.join("; ")));
    }
    if end.memory > base.memory + attack.more_memory {
        return Err(format!("the sentry keeps memory: {}", all.join("; ")));
    }
    println!("     {}", all.join("; "));
    Ok(())
}

/// Asserts that no attacker is left that cannot end: it has no environment any more by which it is known as a job's.
fn nobody_is_stuck() -> Outcome {
    let stuck = || -> Vec<u32> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let attackers = processes.filter(|process| {
            let of = |file: &str| fs::read(process.path().join(file));
            of("comm").is_ok_and(|name| name == b"attack\n")
                && of("environ").is_ok_and(|words| words.is_empty())
        });
        attackers.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
    };
    let mut left = stuck();
    let until = Instant::now() + STUCK;
    while !left.is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
        let still = stuck();
        left.retain(|pid| still.contains(pid));
    }
    if left.is_empty() { Ok(()) } else { Err(format!("processes that do not end: {left:?}")) }
}
