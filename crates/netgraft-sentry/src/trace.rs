//! Calls of a stack as lines for people: `netgraft run -vvv`, `netgraft check`.

use std::fmt;

use netgraft_plugin::Call;

/// What a call was given and what it answered, on one line; `None` for a call that only says that nothing has happened.
#[must_use]
pub fn line(call: Call, arguments: &str, answer: &dyn fmt::Debug) -> Option<String> {
    match call {
        Call::prepare | Call::seccomp_filters => None,
        Call::poll | Call::next_deadline | Call::wake_fds | Call::info | Call::offers_host_fds => None,
        Call::drain_events => {
            let events = format!("{answer:?}");
            (events != "[]").then(|| format!("events: {}", short(&events)))
        }
        _ => {
            let (call, arguments, answer) = (call.name(), short(arguments), short(&format!("{answer:?}")));
            Some(format!("{call}({arguments}) = {answer}"))
        }
    }
}

/// The names that Rust gives to what a reader knows by its form.
fn short(text: &str) -> String {
    let mut text = text.replace("handle: ", "");
    for name in ["Handle(", "Events(", "Instant("] {
        text = without(&text, name);
    }
    text
}

/// Handle(7) is #7, Events(IN | OUT) is IN|OUT, and the time of a call stands before its line.
fn without(text: &str, name: &str) -> String {
    let mut short = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(name) {
        let Some((inner, behind)) = after.split_once(')') else { break };
        short.push_str(before);
        match name {
            "Handle(" => short.push('#'),
            "Instant(" => short.truncate(short.trim_end_matches("now: ").trim_end_matches(", ").len()),
            _ => {}
        }
        if name != "Instant(" {
            short.push_str(&inner.replace(" | ", "|"));
        }
        rest = behind;
    }
    short.push_str(rest);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use netgraft_plugin::{Error, Event, Events, Handle, Instant};

    #[test]
    fn lines_are_short_and_whole() {
        let arguments =
            format!("handle: {:?}, addr: 127.0.0.1:80, now: {:?}", Handle(3), Instant::from_millis(5));
        let answer: Result<(), Error> = Err(Error::InProgress);
        let told = line(Call::connect, &arguments, &answer).unwrap();
        assert_eq!(told, "connect(#3, addr: 127.0.0.1:80) = Err(InProgress)");
        let events = vec![Event { handle: Handle(3), events: Events::IN | Events::OUT }];
        let told = line(Call::drain_events, "", &events).unwrap();
        assert_eq!(told, "events: [Event { handle: #3, events: IN|OUT }]".replace("handle: ", ""));
        assert_eq!(line(Call::drain_events, "", &Vec::<Event>::new()), None);
        assert_eq!(line(Call::poll, "", &()), None);
    }
}
