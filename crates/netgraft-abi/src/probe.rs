//! The first look at an object, in a child process: which interface it speaks, and what its table says.

use std::ffi::{CStr, CString, c_char};

use netgraft_plugin::stack::StackInfo;
use netgraft_plugin::{OptionName, SocketSpec, SyscallRule};
use serde::{Deserialize, Serialize};

use crate::child::{ANSWER_LIMIT, Answer};
use crate::codes;
use crate::convert;
use crate::error::Fault;
use crate::level0::symbols;
use crate::library::Library;
use crate::log::printable;
use crate::object::Level;
use crate::raw;
use crate::table;

/// What was seen.
pub(crate) struct Seen {
    pub(crate) level: Level,
    /// Of level 1.
    pub(crate) report: Option<Report>,
}

/// What the child tells its parent.
#[derive(Serialize, Deserialize)]
enum Message {
    Link(String),
    NoEntryPoint,
    Missing(Vec<String>),
    Refused,
    Version(u32),
    Truncated(u32, Vec<String>),
    Size(u32, u32),
    Lacks(Vec<String>),
    Nonsense(String),
    Zero,
    One(Report),
}

/// A rule: the system call's number, and index, mask and value of each condition.
type RuleText = (i64, Vec<(u64, u64, u64)>);

/// What a table says that is no function.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    name: String,
    version: String,
    needs: String,
    flags: u64,
    /// Family, type, protocol, number.
    sockets: Vec<(u16, u8, u8, u8)>,
    options: Vec<u32>,
    rules: Vec<RuleText>,
    pub(crate) doubts: Vec<String>,
}

/// The most elements of a list in a table, and bytes of a text.
const LIST_LIMIT: usize = 512;

/// Looks at the object that was linked; runs in the child.
pub(crate) fn look(linked: Result<Library, String>) -> Answer {
    let message = match linked {
        Err(text) => Message::Link(text),
        Ok(library) => examine(&library),
    };
    let mut bytes = serde_json::to_vec(&message).map_err(|e| e.to_string())?;
    if bytes.len() >= ANSWER_LIMIT {
        let short = Message::Nonsense("its lists are too long".to_owned());
        bytes = serde_json::to_vec(&short).map_err(|e| e.to_string())?;
    }
    Ok((bytes, Vec::new()))
}

fn examine(library: &Library) -> Message {
    // SAFETY: `netgraft.h` says what the symbol of this name is.
    if let Some(entry) = unsafe { library.symbol::<raw::Entry>(c"netgraft_stack") } {
        return match table::fetch(entry) {
            Ok(table) => {
                let lacks = lacks(&table);
                if lacks.is_empty() {
                    describe(&table).map_or_else(Message::Nonsense, Message::One)
                } else {
                    Message::Lacks(lacks)
                }
            }
            Err(fault) => match fault {
                table::Bad::Refused => Message::Refused,
                table::Bad::Version(version) => Message::Version(version),
                table::Bad::Truncated { size, missing } => Message::Truncated(size, missing),
                table::Bad::Size { size, version } => Message::Size(size, version),
            },
        };
    }
    match symbols::Symbols::find(library) {
        Ok(_) => Message::Zero,
        Err(missing) if missing.iter().any(|name| name == "plugin_initstack") => Message::NoEntryPoint,
        Err(missing) => Message::Missing(missing),
    }
}

/// What a table with TCP sockets must have beyond what every one must: without it a client's connection is never
/// accepted, and one that fails looks made.
fn lacks(table: &raw::Table) -> Vec<String> {
    let sockets = list(table.sockets, table.socket_count).unwrap_or_default();
    if !sockets.iter().any(|spec| spec.kind == codes::KIND_STREAM) {
        return Vec::new();
    }
    let all = [
        ("listen", table.listen.is_none()),
        ("accept", table.accept.is_none()),
        ("take_error", table.take_error.is_none()),
    ];
    all.iter().filter(|(_, absent)| *absent).map(|(name, _)| (*name).to_owned()).collect()
}

/// The warnings about a table that can be used: what makes programs fail on it.
fn doubts(table: &raw::Table) -> Vec<String> {
    let sockets = list(table.sockets, table.socket_count).unwrap_or_default();
    let options = list(table.options, table.option_count).unwrap_or_default();
    let known = |name: OptionName| options.iter().any(|number| codes::option_of(*number) == Some(name));
    let mut doubts = Vec::new();
    if sockets.is_empty() && table.flags & codes::STACK_HOST_FDS == 0 {
        doubts.push("declares no sockets: programs that look for a family first find none".to_owned());
    }
    let functions = [("set_option", table.set_option.is_none()), ("get_option", table.get_option.is_none())];
    for (name, absent) in functions {
        if absent && !options.is_empty() {
            doubts.push(format!("declares options and has no {name}"));
        }
    }
    if sockets.iter().any(|spec| spec.kind == codes::KIND_STREAM) {
        for (name, text, programs) in [
            (OptionName::ReuseAddress, "SO_REUSEADDR", "redis-server and python3's http.server do not start"),
            (OptionName::NoDelay, "TCP_NODELAY", "redis-server and redis-cli drop connections"),
        ] {
            if !known(name) {
                doubts.push(format!("does not declare the option {text}: {programs} without it"));
            }
        }
    }
    doubts
}

fn describe(table: &raw::Table) -> Result<Report, String> {
    let name = text(table.name).ok_or("its name is null or endless")?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || !name.bytes().all(legal) {
        return Err(format!("its name is '{}': use letters, digits, '-' and '_'", printable(&name)));
    }
    let sockets = list(table.sockets, table.socket_count).ok_or("its list of sockets is null or endless")?;
    let options = list(table.options, table.option_count).ok_or("its list of options is null or endless")?;
    let rules = list(table.rules, table.rule_count).ok_or("its list of rules is null or endless")?;
    let rules = rules
        .iter()
        .map(|rule| {
            let rule = convert::from_rule(rule)
                .ok_or_else(|| format!("its rule for system call {} has a wrong condition", rule.number))?;
            let conditions = rule.conditions.iter().map(|c| (c.index.into(), c.mask, c.value)).collect();
            Ok((rule.number, conditions))
        })
        .collect::<Result<_, String>>()?;
    Ok(Report {
        name,
        version: printable(&text(table.version_text).unwrap_or_default()),
        needs: printable(&text(table.needs).unwrap_or_default()),
        flags: table.flags,
        sockets: sockets.iter().map(|s| (s.family, s.kind, s.protocol, s.number)).collect(),
        options: options.to_vec(),
        rules,
        doubts: doubts(table),
    })
}

/// A text of the table; `None` if it is null or too long.
fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the object says that it is a text; if not, this child dies and no other process.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    (bytes.len() <= LIST_LIMIT).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// A list of the table; `None` if it is null or too long.
fn list<T>(first: *const T, count: usize) -> Option<&'static [T]> {
    match count {
        0 => Some(&[]),
        1..=LIST_LIMIT if !first.is_null() => {
            // SAFETY: as in `text`; the table lives as long as the object, which is never unloaded.
            Some(unsafe { std::slice::from_raw_parts(first, count) })
        }
        _ => None,
    }
}

/// Reads what the child said. The object could have said it itself: nothing is taken for granted.
pub(crate) fn understand(bytes: &[u8]) -> Result<Seen, Fault> {
    let garbled = |e: serde_json::Error| Fault::Died(format!("garbled what was said of it: {e}"));
    let seen = |level, report| Ok(Seen { level, report });
    match serde_json::from_slice(bytes).map_err(garbled)? {
        Message::Link(text) => Err(Fault::Link(printable(&text))),
        Message::NoEntryPoint => Err(Fault::NoEntryPoint),
        Message::Missing(names) => Err(Fault::MissingSymbols(names)),
        Message::Refused => Err(Fault::Refused(version(raw::VERSION))),
        Message::Version(theirs) => {
            Err(Fault::Version { theirs: version(theirs), ours: version(raw::VERSION) })
        }
        Message::Truncated(size, missing) => Err(Fault::Truncated { size, missing }),
        Message::Size(size, theirs) => Err(Fault::Size { size, version: version(theirs) }),
        Message::Lacks(names) => Err(Fault::Lacks(names)),
        Message::Nonsense(text) => Err(Fault::Nonsense(text)),
        Message::Zero => seen(Level::Zero, None),
        Message::One(report) => seen(Level::One, Some(report)),
    }
}

fn version(number: u32) -> String {
    format!("{}.{}", number >> 16, number & 0xffff)
}

impl Report {
    /// The description, whether sockets are host descriptors, and the rules. What a newer object knows and this
    /// crate does not is left out.
    pub(crate) fn into_parts(self) -> Result<(StackInfo, bool, Vec<SyscallRule>), Fault> {
        let socket = |&(family, kind, protocol, number): &(u16, u8, u8, u8)| -> Option<SocketSpec> {
            convert::from_spec(&raw::SocketSpec { family, kind, protocol, number, reserved: [0; 3] })
        };
        let options: Vec<OptionName> = self.options.iter().filter_map(|n| codes::option_of(*n)).collect();
        let rule = |(number, conditions): &RuleText| {
            let mut raw =
                raw::Rule { number: *number, condition_count: conditions.len() as u64, ..Default::default() };
            for (to, &(index, mask, value)) in raw.conditions.iter_mut().zip(conditions) {
                *to = raw::Condition { index, mask, value };
            }
            convert::from_rule(&raw)
        };
        let rules: Option<Vec<SyscallRule>> = self.rules.iter().map(rule).collect();
        // A name that C could not carry would have been refused by the child.
        let sound = CString::new(self.name.as_str()).is_ok();
        let rules = rules.filter(|_| sound).ok_or_else(|| Fault::Nonsense("its rules".to_owned()))?;
        let info = StackInfo {
            name: self.name,
            version: self.version,
            sockets: self.sockets.iter().filter_map(socket).collect(),
            options,
            needs: self.needs,
            wraps_link: false,
        };
        Ok((info, self.flags & codes::STACK_HOST_FDS != 0, rules))
    }
}
