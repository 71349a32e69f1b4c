//! Every attack on every kind of stack, by root and by an ordinary user.

use std::process::ExitCode;

use netgraft_attack::{ATTACKS, Ids, compile, run};
use netgraft_e2e::column::{Column, Network, Object, User};
use netgraft_e2e::report::{self, Job};
use netgraft_e2e::stage::Stage;

/// The built-in stack, the host's, and a shared object in C.
const STACKS: [Network; 3] = [Network::Sandbox, Network::Host, Network::Object(Object::Lwip)];

fn main() -> ExitCode {
    report::main("attacks", jobs, Vec::new)
}

/// What the attacks' dice begin with: `NETGRAFT_ATTACK_SEED`, or the day's.
fn seed() -> u64 {
    let given = std::env::var("NETGRAFT_ATTACK_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(20_261_128)
}

fn jobs(stage: &Stage) -> Result<Vec<Job<'_>>, String> {
    compile(stage)?;
    stage.build_objects()?;
    let mut jobs = Vec::new();
    let users = [User::Root, User::Ordinary];
    let stacks = STACKS.into_iter().flat_map(|network| users.map(|user| Column { network, user }));
    // And once with connections that are joined past the stack.
    let joined = users.map(|user| Column { network: Network::None, user });
    for column in stacks.chain(joined) {
        for attack in &ATTACKS {
            let run = Box::new(move || run(stage, column, Ids::Host, attack, seed()));
            jobs.push(Job { name: attack.name.to_owned(), column: column.to_string(), skip: None, run });
        }
    }
    // What root gets who says nothing of ids, and with a link, where datagram sockets are the kernel's on a private one.
    let column = Column { network: Network::None, user: User::Root };
    for (ids, name) in [(Ids::Own, "own-ids"), (Ids::Linked, "linked")] {
        for attack in ATTACKS.iter().filter(|attack| ids == Ids::Linked || !attack.needs_namespaces) {
            let run = Box::new(move || run(stage, column, ids, attack, seed()));
            jobs.push(Job {
                name: attack.name.to_owned(),
                column: format!("{column}-{name}"),
                skip: None,
                run,
            });
        }
    }
    Ok(jobs)
}
