//! A container's filter of system calls: the engine's rules, with netgraft's notifications in them.
//!
//! The runtime compiles one filter from `linux.seccomp` of the configuration. Where the engine's rules let a call through, and
//! only there, netgraft's table ([`netgraft_linux::cells`]) decides what becomes of it. So no two rules of a call overlap: what
//! libseccomp makes of rules that do, and have different actions, is not said anywhere.

use std::path::Path;

use netgraft_linux::cells::{self, Cell, Condition, Verdict};
use netgraft_linux::filter::Sockets;
use netgraft_linux::syscall;
use serde_json::{Value, json};

/// The architecture that netgraft serves, as configurations name it.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "SCMP_ARCH_AARCH64";

const ALLOW: &str = "SCMP_ACT_ALLOW";
/// Actions that let a call through, and say so.
const ALLOWING: [&str; 2] = [ALLOW, "SCMP_ACT_LOG"];
const NOTIFY: &str = "SCMP_ACT_NOTIFY";

/// Refuses a configuration in which somebody else listens.
pub(crate) fn check(config: &Value) -> Result<(), String> {
    let seccomp = &config["linux"]["seccomp"];
    let names = |rule: &Value| rule["action"] == NOTIFY;
    let rules = seccomp["syscalls"].as_array().map_or(&[][..], Vec::as_slice);
    if seccomp["listenerPath"].is_string() || seccomp["defaultAction"] == NOTIFY || rules.iter().any(names) {
        return Err("the container's seccomp profile has a listener already, and there can be one only: \
                    use a profile without SCMP_ACT_NOTIFY"
            .to_owned());
    }
    Ok(())
}

/// Adds the notifications to a configuration, and where they go.
pub(crate) fn extend(config: &mut Value, sockets: Sockets, listener: &Path) -> Result<(), String> {
    let linux = config["linux"].as_object_mut().ok_or("the configuration has no part 'linux'")?;
    let seccomp = linux.entry("seccomp").or_insert(Value::Null);
    if !seccomp.is_object() {
        *seccomp = json!({ "defaultAction": ALLOW });
    }
    let default = seccomp["defaultAction"].as_str().unwrap_or(ALLOW).to_owned();
    let mut rules = match seccomp["syscalls"].take() {
        Value::Array(rules) => rules,
        _ => Vec::new(),
    };
    for (number, cells) in cells::table(sockets) {
        let Some(name) = syscall::name(number) else { continue };
        let mut of_engine = take_rules(&mut rules, name)?;
        if ALLOWING.contains(&default.as_str()) {
            let allows = json!({ "action": default });
            let left = what_is_left(&of_engine);
            of_engine
                .extend(left.into_iter().map(|conditions| EngineRule { action: allows.clone(), conditions }));
        }
        for rule in &of_engine {
            rules.extend(combine(name, rule, &cells, &default)?);
        }
    }
    seccomp["syscalls"] = Value::Array(rules);
    // Numbers of other architectures' calls mean other calls to the sentry.
    seccomp["architectures"] = json!([ARCHITECTURE]);
    seccomp["listenerPath"] = Value::from(listener.to_string_lossy());
    Ok(())
}

/// A condition of the engine's.
#[derive(Clone, Debug, PartialEq)]
enum Test {
    /// One that netgraft's could be.
    Own(Condition),
    /// Another one: its operator, and its value.
    Other(&'static str, u64),
    /// Not one that netgraft's could be.
    Not(Condition),
}

/// Operators that netgraft's own conditions do not have, each with its opposite.
const OPERATORS: [(&str, &str); 5] = [
    ("SCMP_CMP_NE", "SCMP_CMP_EQ"),
    ("SCMP_CMP_LT", "SCMP_CMP_GE"),
    ("SCMP_CMP_LE", "SCMP_CMP_GT"),
    ("SCMP_CMP_GE", "SCMP_CMP_LT"),
    ("SCMP_CMP_GT", "SCMP_CMP_LE"),
];

impl Test {
    /// A comparison.
    fn compare(op: &str, value: u64) -> Option<Test> {
        match op {
            "SCMP_CMP_EQ" => Some(Test::Own(Condition::Bits { mask: u64::MAX, value })),
            "SCMP_CMP_NE" if value == 0 => Some(Test::Own(Condition::NotZero)),
            op => OPERATORS.iter().find(|(other, _)| *other == op).map(|(op, _)| Test::Other(op, value)),
        }
    }

    /// Holds where this does not.
    fn opposite(&self) -> Test {
        let compare = |op, value| Test::compare(op, value).unwrap_or_else(|| self.clone());
        match *self {
            Test::Own(Condition::Bits { mask: u64::MAX, value }) => compare("SCMP_CMP_NE", value),
            Test::Own(Condition::NotZero) => compare("SCMP_CMP_EQ", 0),
            Test::Own(own) => Test::Not(own),
            Test::Not(own) => Test::Own(own),
            Test::Other(op, value) => {
                let opposite = OPERATORS.iter().find(|(other, _)| *other == op);
                compare(opposite.map_or(op, |(_, opposite)| opposite), value)
            }
        }
    }
}

/// The calls that no rule is about, as conditions: one of these meets each.
fn what_is_left(rules: &[EngineRule]) -> Vec<Vec<(u8, Test)>> {
    let mut left = vec![Vec::new()];
    for rule in rules {
        let beside = |before: &Vec<(u8, Test)>| {
            (0..rule.conditions.len())
                .map(|not| {
                    let (index, test) = &rule.conditions[not];
                    let mut more = before.clone();
                    more.extend_from_slice(&rule.conditions[..not]);
                    more.push((*index, test.opposite()));
                    more
                })
                .collect::<Vec<_>>()
        };
        left = left.iter().flat_map(beside).collect();
    }
    left
}

/// A rule of the engine's about one call.
#[derive(Clone, Debug)]
struct EngineRule {
    /// The rule without names and conditions.
    action: Value,
    conditions: Vec<(u8, Test)>,
}

/// Takes the rules about a call out of all rules.
fn take_rules(rules: &mut Vec<Value>, name: &str) -> Result<Vec<EngineRule>, String> {
    let mut found = Vec::new();
    for rule in rules.iter_mut() {
        let Some(names) = rule["names"].as_array_mut() else { continue };
        let before = names.len();
        names.retain(|other| other != name);
        if names.len() == before {
            continue;
        }
        let mut action = rule.clone();
        if let Some(action) = action.as_object_mut() {
            action.remove("names");
            action.remove("args");
        }
        let args = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
        let conditions = args.iter().map(|arg| condition(name, arg)).collect::<Result<Vec<_>, _>>()?;
        let repeated =
            (0..conditions.len()).any(|i| conditions[..i].iter().any(|(index, _)| *index == conditions[i].0));
        if repeated {
            // The runtime makes alternatives of them.
            found.extend(
                conditions.into_iter().map(|c| EngineRule { action: action.clone(), conditions: vec![c] }),
            );
        } else {
            found.push(EngineRule { action, conditions });
        }
    }
    rules.retain(|rule| rule["names"].as_array().is_none_or(|names| !names.is_empty()));
    Ok(found)
}

fn condition(name: &str, arg: &Value) -> Result<(u8, Test), String> {
    let wrong = || format!("the container's seccomp profile has a condition on {name} that is none");
    let index = arg["index"].as_u64().and_then(|index| u8::try_from(index).ok()).filter(|index| *index < 6);
    let (value, second) = (arg["value"].as_u64().unwrap_or(0), arg["valueTwo"].as_u64().unwrap_or(0));
    let test = match arg["op"].as_str().ok_or_else(wrong)? {
        "SCMP_CMP_MASKED_EQ" => Test::Own(Condition::Bits { mask: value, value: second & value }),
        op => Test::compare(op, value).ok_or_else(wrong)?,
    };
    Ok((index.ok_or_else(wrong)?, test))
}

/// The rules for what one rule of the engine's says of a call, and netgraft's table.
fn combine(name: &str, rule: &EngineRule, cells: &[Cell], default: &str) -> Result<Vec<Value>, String> {
    let mut made = Vec::new();
    let allows = rule.action["action"].as_str().is_some_and(|action| ALLOWING.contains(&action));
    for cell in cells {
        let Some(conditions) = meet(name, &rule.conditions, &cell.conditions)? else { continue };
        let action = match cell.verdict {
            _ if !allows => rule.action.clone(),
            Verdict::Allow => rule.action.clone(),
            Verdict::Notify => json!({ "action": NOTIFY }),
            Verdict::Errno(code) => json!({ "action": "SCMP_ACT_ERRNO", "errnoRet": code }),
        };
        // The runtime refuses rules that say what is done in any case.
        if action["action"] == default && action.get("errnoRet").is_none() {
            continue;
        }
        let mut action = action;
        action["names"] = json!([name]);
        if !conditions.is_empty() {
            let args = conditions.iter().map(|(index, test)| to_json(name, *index, test));
            action["args"] = Value::Array(args.collect::<Result<_, _>>()?);
        }
        made.push(action);
    }
    Ok(made)
}

/// The conditions that say what both say; `None` if nothing meets both.
fn meet(
    name: &str,
    of_engine: &[(u8, Test)],
    of_cell: &[(u8, Condition)],
) -> Result<Option<Vec<(u8, Test)>>, String> {
    let mut both: Vec<(u8, Test)> = of_cell.iter().map(|(index, own)| (*index, Test::Own(*own))).collect();
    for (index, test) in of_engine {
        let Some(place) = both.iter_mut().find(|(other, _)| other == index) else {
            both.push((*index, test.clone()));
            continue;
        };
        let cannot = || {
            format!(
                "the container's seccomp profile has a rule about {name} that netgraft's cannot be combined with: \
                 use the engine's default profile, or one without conditions on {name}"
            )
        };
        if place.1 == *test {
            continue;
        }
        let Test::Own(own) = place.1.clone() else { return Err(cannot()) };
        place.1 = match (own, test) {
            (Condition::Bits { mask: m, value: v }, Test::Own(Condition::Bits { mask: n, value: w })) => {
                if (v ^ w) & m & n != 0 {
                    return Ok(None);
                }
                Test::Own(Condition::Bits { mask: m | n, value: v | w })
            }
            // One that says what an int is decides of another's value: no family but one is that one.
            (own @ Condition::Bits { mask, value }, test) if mask & 0xffff_ffff == 0xffff_ffff => {
                if !holds(test, value) {
                    return Ok(None);
                }
                Test::Own(own)
            }
            // What is 0 is no other.
            (Condition::NotZero, Test::Own(Condition::Bits { mask: u64::MAX, value })) => {
                if *value == 0 {
                    return Ok(None);
                }
                test.clone()
            }
            _ => return Err(cannot()),
        };
    }
    Ok(Some(both))
}

fn holds(test: &Test, argument: u64) -> bool {
    match test {
        Test::Own(own) => own.holds(argument),
        Test::Not(own) => !own.holds(argument),
        Test::Other(op, value) => match *op {
            "SCMP_CMP_NE" => argument != *value,
            "SCMP_CMP_LT" => argument < *value,
            "SCMP_CMP_LE" => argument <= *value,
            "SCMP_CMP_GE" => argument >= *value,
            "SCMP_CMP_GT" => argument > *value,
            _ => false,
        },
    }
}

fn to_json(name: &str, index: u8, test: &Test) -> Result<Value, String> {
    Ok(match test {
        Test::Own(Condition::Bits { mask: u64::MAX, value }) => {
            json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" })
        }
        Test::Own(Condition::Bits { mask, value }) => {
            json!({ "index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" })
        }
        Test::Own(Condition::NotZero) => json!({ "index": index, "value": 0, "op": "SCMP_CMP_NE" }),
        Test::Other(op, value) => json!({ "index": index, "value": value, "op": op }),
        Test::Not(_) => {
            return Err(format!(
                "the container's seccomp profile refuses {name} by bits of an argument, which cannot be combined with \
                 netgraft's rules: use the engine's default profile"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/run/x.sock";

    fn extended(seccomp: &Value) -> Value {
        let mut config = json!({ "linux": { "seccomp": seccomp } });
        extend(&mut config, Sockets::Surrogates, Path::new(PATH)).unwrap();
        config["linux"]["seccomp"].take()
    }

    /// What a filter that is compiled from rules does: one of them, or the default.
    fn verdict(seccomp: &Value, name: &str, args: [u64; 6]) -> String {
        let meets = |rule: &&Value| {
            let named = rule["names"].as_array().unwrap().iter().any(|other| other == name);
            let conditions = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
            named
                && conditions.iter().all(|arg| {
                    let (index, test) = condition(name, arg).unwrap();
                    holds(&test, args[usize::from(index)])
                })
        };
        let found: Vec<&Value> = seccomp["syscalls"].as_array().unwrap().iter().filter(meets).collect();
        let actions: std::collections::BTreeSet<String> = found
            .iter()
            .map(|rule| format!("{}{}", rule["action"].as_str().unwrap(), rule["errnoRet"]))
            .collect();
        assert!(actions.len() <= 1, "{name} {args:x?}: {found:?}");
        let action = actions
            .into_iter()
            .next()
            .unwrap_or_else(|| format!("{}null", seccomp["defaultAction"].as_str().unwrap()));
        action.replace("null", "").replace("SCMP_ACT_", "")
    }

    #[test]
    fn without_a_profile_netgrafts_calls_are_told() {
        for seccomp in [Value::Null, json!({ "defaultAction": "SCMP_ACT_ALLOW" })] {
            let seccomp = extended(&seccomp);
            assert_eq!(seccomp["listenerPath"], PATH);
            let is = |name, args| verdict(&seccomp, name, args);
            assert_eq!(is("socket", [2, 1, 0, 0, 0, 0]), "NOTIFY");
            assert_eq!(is("socket", [10, 1, 0, 0, 0, 0]), "NOTIFY");
            assert_eq!(is("socket", [1, 1, 0, 0, 0, 0]), "ALLOW");
            assert_eq!(is("socket", [40, 1, 0, 0, 0, 0]), "ERRNO97");
            assert_eq!(is("connect", [0; 6]), "NOTIFY");
            assert_eq!(is("accept", [3, 0, 0, 0, 0, 0]), "ALLOW");
            assert_eq!(is("accept", [3, 9, 0, 0, 0, 0]), "NOTIFY");
            assert_eq!(is("ioctl", [0, 0x8912, 0, 0, 0, 0]), "NOTIFY");
            assert_eq!(is("ioctl", [0, 0x5401, 0, 0, 0, 0]), "ALLOW");
            assert_eq!(is("clone3", [0; 6]), "ERRNO38");
            assert_eq!(is("read", [0; 6]), "ALLOW");
        }
    }

    /// What Docker's and Podman's profiles have.
    fn of_engine() -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                { "names": ["read", "connect", "accept", "ioctl", "setsockopt"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_NE" }] },
                { "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 2_114_060_288_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] },
                { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
                { "names": ["bind"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
            ]
        })
    }

    #[test]
    fn an_engines_profile_keeps_its_say() {
        let seccomp = extended(&of_engine());
        let is = |name, args| verdict(&seccomp, name, args);
        assert_eq!(is("socket", [2, 1, 0, 0, 0, 0]), "NOTIFY");
        assert_eq!(is("socket", [16, 3, 9, 0, 0, 0]), "ALLOW");
        // Refused by the engine, with its errno.
        assert_eq!(is("socket", [40, 1, 0, 0, 0, 0]), "ERRNO");
        assert_eq!(is("socket", [38, 1, 0, 0, 0, 0]), "ERRNO97");
        assert_eq!(is("bind", [0; 6]), "ERRNO13");
        assert_eq!(is("listen", [0; 6]), "ERRNO");
        assert_eq!(is("setns", [0; 6]), "ERRNO");
        assert_eq!(is("connect", [0; 6]), "NOTIFY");
        assert_eq!(is("read", [0; 6]), "ALLOW");
        assert_eq!(is("ioctl", [0, 0x5412, 0, 0, 0, 0]), "ERRNO1");
        assert_eq!(is("clone", [0x11, 0, 0, 0, 0, 0]), "ALLOW");
        assert_eq!(is("clone", [0x4000_0000, 0, 0, 0, 0, 0]), "ERRNO");
        assert_eq!(is("clone3", [0; 6]), "ERRNO38");
        assert_eq!(seccomp["architectures"], json!([ARCHITECTURE]));
    }

    /// A profile that refuses some calls and allows all others.
    #[test]
    fn what_a_profile_does_not_refuse_is_netgrafts() {
        let seccomp = extended(&json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
                  "args": [{ "index": 0, "value": 16, "op": "SCMP_CMP_EQ" }, { "index": 2, "value": 9, "op": "SCMP_CMP_NE" }] },
                { "names": ["listen", "mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
            ]
        }));
        let is = |name, args| verdict(&seccomp, name, args);
        assert_eq!(is("socket", [16, 3, 0, 0, 0, 0]), "ERRNO22");
        assert_eq!(is("socket", [16, 3, 9, 0, 0, 0]), "ALLOW");
        for protocol in [0, 9] {
            assert_eq!(is("socket", [2, 1, protocol, 0, 0, 0]), "NOTIFY");
            assert_eq!(is("socket", [40, 1, protocol, 0, 0, 0]), "ERRNO97");
            assert_eq!(is("socket", [1, 1, protocol, 0, 0, 0]), "ALLOW");
        }
        assert_eq!(is("listen", [3; 6]), "ERRNO13");
        assert_eq!(is("mkdir", [3; 6]), "ERRNO13");
        assert_eq!(is("bind", [3; 6]), "NOTIFY");
    }

    /// Podman's about the audit socket: two rules that allow, and one that refuses.
    #[test]
    fn rules_about_other_arguments_are_kept() {
        let seccomp = extended(&json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
                  "args": [{ "index": 0, "value": 16, "op": "SCMP_CMP_EQ" }, { "index": 2, "value": 9, "op": "SCMP_CMP_EQ" }] },
                { "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 2, "value": 9, "op": "SCMP_CMP_NE" }] },
                { "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 16, "op": "SCMP_CMP_NE" }] },
            ]
        }));
        let is = |args| verdict(&seccomp, "socket", args);
        assert_eq!(is([16, 3, 9, 0, 0, 0]), "ERRNO22");
        assert_eq!(is([16, 3, 0, 0, 0, 0]), "ALLOW");
        assert_eq!(is([2, 1, 0, 0, 0, 0]), "NOTIFY");
        assert_eq!(is([2, 3, 9, 0, 0, 0]), "NOTIFY");
        assert_eq!(is([1, 1, 0, 0, 0, 0]), "ALLOW");
    }

    #[test]
    fn what_cannot_be_combined_and_a_second_listener_are_refused() {
        let mut config = json!({ "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            { "names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 1, "value": 5, "op": "SCMP_CMP_GT" }] }] } } });
        let error = extend(&mut config, Sockets::Surrogates, Path::new(PATH)).unwrap_err();
        assert!(error.contains("rule about ioctl") && !error.contains('\n'), "{error}");
        for seccomp in [
            json!({ "listenerPath": "/x" }),
            json!({ "defaultAction": NOTIFY }),
            json!({ "syscalls": [{ "names": ["mkdir"], "action": NOTIFY }] }),
        ] {
            let error = check(&json!({ "linux": { "seccomp": seccomp } })).unwrap_err();
            assert!(error.contains("listener already"), "{error}");
        }
        assert_eq!(check(&json!({ "linux": { "seccomp": of_engine() } })), Ok(()));
    }
}
