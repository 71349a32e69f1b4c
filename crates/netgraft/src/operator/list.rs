//! `netgraft list`: the sandboxes that run.

use netgraft_launch::operator::{Answer, Info, Request};
use netgraft_launch::{door, printable};
use serde::Serialize;

use super::processes::{self, Process};
use super::{Client, table};

/// How many programs of a sandbox are named in a line.
const NAMED: usize = 4;

/// A sandbox that runs.
#[derive(Serialize)]
struct Sandbox {
    id: String,
    launcher: Option<u32>,
    /// Seconds since it was made.
    uptime: Option<u64>,
    /// What its sentry says of it.
    #[serde(flatten)]
    info: Option<Info>,
    /// Why its sentry says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    programs: Vec<Program>,
}

/// A process in it.
#[derive(Serialize)]
struct Program {
    pid: u32,
    name: String,
}

/// The text of `netgraft list`.
pub(crate) fn list(json: bool) -> Result<String, String> {
    let sandboxes: Vec<Sandbox> =
        door::sandboxes().into_iter().filter_map(|(name, _)| look_at(&name)).collect();
    if json {
        let text = serde_json::to_string_pretty(&sandboxes).map_err(|error| error.to_string())?;
        return Ok(format!("{text}\n"));
    }
    let heads = ["ID", "STACK", "INTERFACES", "SOCKETS", "UPTIME", "PROGRAMS"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(sandboxes.iter().map(row));
    Ok(table(&rows))
}

/// A sandbox, unless it has ended meanwhile.
fn look_at(name: &str) -> Option<Sandbox> {
    let mut client = Client::connect(name).ok()?;
    let launcher = client.launcher();
    let answer = client.ask(Request::Info).and_then(|()| client.next());
    let (info, error) = match answer {
        Ok(Answer::Info(info)) => (Some(clean(info)), None),
        Ok(_) => (None, Some("its sentry answers something else".to_owned())),
        Err(text) => (None, Some(text)),
    };
    let programs = launcher.map(processes::of_launcher).unwrap_or_default();
    Some(Sandbox {
        id: name.to_owned(),
        launcher,
        uptime: launcher.and_then(processes::age),
        info,
        error,
        programs: programs.into_iter().map(|Process { pid, name, .. }| Program { pid, name }).collect(),
    })
}

/// What a sentry says is shown as JSON as well, which leaves alone what turns a text's direction.
fn clean(info: Info) -> Info {
    let interfaces = info.interfaces.into_iter().map(|(name, addresses)| {
        (printable(&name), addresses.iter().map(|address| printable(address)).collect())
    });
    Info {
        stack: printable(&info.stack),
        stack_version: printable(&info.stack_version),
        interfaces: interfaces.collect(),
        ..info
    }
}

fn row(sandbox: &Sandbox) -> Vec<String> {
    let names: Vec<&str> = sandbox.programs.iter().take(NAMED).map(|program| program.name.as_str()).collect();
    let mut programs = names.join(" ");
    if sandbox.programs.len() > NAMED {
        programs = format!("{programs} and {} more", sandbox.programs.len() - NAMED);
    }
    let uptime = sandbox.uptime.map_or_else(|| "?".to_owned(), time_text);
    let Some(info) = &sandbox.info else {
        let none = || "?".to_owned();
        return vec![sandbox.id.clone(), none(), none(), none(), uptime, programs];
    };
    let interfaces: Vec<String> = info
        .interfaces
        .iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .map(|(name, addresses)| printable(&format!("{name} {}", addresses.join(" "))))
        .collect();
    let interfaces = if interfaces.is_empty() { "lo".to_owned() } else { interfaces.join(", ") };
    vec![sandbox.id.clone(), printable(&info.stack), interfaces, info.sockets.to_string(), uptime, programs]
}

/// As uptime(1) and ps(1) have it: `42s`, `7:05`, `3:07:05`, `2d03h`.
fn time_text(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}:{:02}", seconds % 60),
        3600..86_400 => format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::time_text;

    #[test]
    fn times_are_short() {
        let times = [(0, "0s"), (59, "59s"), (61, "1:01"), (3661, "1:01:01"), (90_000, "1d01h")];
        for (seconds, text) in times {
            assert_eq!(time_text(seconds), text);
        }
    }
}
