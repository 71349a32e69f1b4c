//! The decision, by examples and against a function that looks at every rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

fn policy(rules: &[&str]) -> Policy {
    Policy::new(spec(rules))
}

fn spec(rules: &[&str]) -> PolicySpec {
    let rules =
        rules.iter().map(|rule| Rule::parse_with_verb(rule).unwrap_or_else(|e| panic!("{rule}: {e}")));
    PolicySpec { rules: rules.collect(), ..PolicySpec::default() }
}

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn out(policy: &Policy, protocol: Protocol, to: &str) -> Verdict {
    policy.decide(Direction::Out, protocol, NOBODY, to.parse().unwrap())
}

fn tcp(policy: &Policy, to: &str) -> bool {
    out(policy, Protocol::Tcp, to).is_allowed()
}

#[test]
fn the_first_rule_that_is_about_a_flow_decides() {
    let rules = ["deny 192.0.2.7", "allow tcp 192.0.2.0/24:443", "deny any:443", "allow tcp any"];
    let policy = policy(&rules);
    let cases = [
        ("192.0.2.7:443", Action::Deny, 0),
        ("192.0.2.8:443", Action::Allow, 1),
        ("198.51.100.1:443", Action::Deny, 2),
        ("198.51.100.1:80", Action::Allow, 3),
        ("[2001:db8::1]:443", Action::Deny, 2),
        ("[::ffff:192.0.2.8]:443", Action::Allow, 1),
    ];
    for (to, action, rule) in cases {
        assert_eq!(out(&policy, Protocol::Tcp, to), Verdict { action, reason: Reason::Rule(rule) }, "{to}");
    }
    assert_eq!(out(&policy, Protocol::Udp, "192.0.2.8:443").reason, Reason::Rule(2));
    let default = Verdict { action: Action::Deny, reason: Reason::Default };
    assert_eq!(out(&policy, Protocol::Udp, "192.0.2.8:53"), default);
    assert_eq!(
        policy.reason_text(out(&policy, Protocol::Tcp, "192.0.2.8:443")),
        "rule 2, 'allow out tcp 192.0.2.0/24:443'"
    );
}

#[test]
fn the_default_is_what_is_safe() {
    assert!(!tcp(&policy(&["allow 192.0.2.1"]), "192.0.2.2:80"));
    assert!(tcp(&policy(&["deny 192.0.2.1"]), "192.0.2.2:80"));
    let open = PolicySpec { default: Some(Action::Allow), ..spec(&["allow 192.0.2.1"]) };
    assert!(tcp(&Policy::new(open), "192.0.2.2:80"));
    let closed = PolicySpec { default: Some(Action::Deny), ..PolicySpec::default() };
    assert!(!closed.is_empty() && !tcp(&Policy::new(closed), "192.0.2.2:80"));
}

#[test]
fn special_addresses_are_named_or_denied() {
    let wide = policy(&["allow any"]);
    for to in [
        "10.0.0.1:80",
        "192.168.1.1:80",
        "169.254.169.254:80",
        "[fd00:ec2::254]:80",
        "[fe80::1]:80",
        "[::ffff:10.0.0.1]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "255.255.255.255:80",
        "[2002:a00:1::]:80",
    ] {
        assert!(!tcp(&wide, to), "{to}");
    }
    assert!(tcp(&wide, "192.0.2.1:80") && tcp(&wide, "[2001:db8::1]:80"));
    let private = Policy::new(PolicySpec { allow_private: true, ..spec(&["allow any"]) });
    assert!(tcp(&private, "10.0.0.1:80") && !tcp(&private, "169.254.169.254:80"));
    let named = policy(&["allow 10.1.0.0/16", "allow 169.254.169.254:80"]);
    assert!(tcp(&named, "10.1.2.3:80") && !tcp(&named, "10.2.0.1:80"));
    assert!(tcp(&named, "169.254.169.254:80") && !tcp(&named, "169.254.169.254:81"));
    let denies = policy(&["deny 192.0.2.1"]);
    // What leads elsewhere is allowed where both are.
    let translated = policy(&["deny 2002::/16", "deny 192.0.2.1", "allow any"]);
    assert!(!tcp(&translated, "[64:ff9b::192.0.2.1]:80") && tcp(&translated, "[64:ff9b::192.0.2.2]:80"));
    assert!(!tcp(&translated, "[2002:c000:202::1]:80"));
    let reason = out(&denies, Protocol::Tcp, "169.254.169.254:80").reason;
    assert_eq!(reason, Reason::Unnamed(Place::Metadata), "also where the default is to allow");
}

#[test]
fn the_loopback_is_the_sandbox_s_or_the_host_s() {
    let policy = policy(&["allow 192.0.2.1", "deny tcp 127.0.0.1:6379", "deny any"]);
    assert!(tcp(&policy, "127.0.0.1:80") && tcp(&policy, "[::1]:80") && tcp(&policy, "0.0.0.0:80"));
    assert!(!tcp(&policy, "127.0.0.1:6379") && !tcp(&policy, "[::ffff:127.0.0.1]:6379"));
    let host = |rules| Policy::new(PolicySpec { loopback: Loopback::OfHost, ..spec(rules) });
    let wide = host(&["allow any"]);
    assert!(!tcp(&wide, "127.0.0.1:80") && !tcp(&wide, "0.0.0.0:80") && !tcp(&wide, "[::]:80"));
    let reason = out(&wide, Protocol::Tcp, "127.0.0.1:80").reason;
    assert_eq!(reason, Reason::Unnamed(Place::Loopback));
    assert!(tcp(&host(&["allow 127.0.0.1:80"]), "127.0.0.1:80"));
}

#[test]
fn who_comes_in_is_decided_by_its_address_and_the_own_port() {
    let policy = policy(&["allow in tcp 192.0.2.0/24:80", "allow out udp 198.51.100.1:53"]);
    let comes = |protocol, local: &str, from: &str| {
        policy.decide(Direction::In, protocol, local.parse().unwrap(), from.parse().unwrap()).is_allowed()
    };
    assert!(comes(Protocol::Tcp, "203.0.113.1:80", "192.0.2.9:50000"));
    assert!(!comes(Protocol::Tcp, "203.0.113.1:81", "192.0.2.9:50000"));
    assert!(!comes(Protocol::Tcp, "203.0.113.1:80", "192.0.3.9:50000"));
    assert!(comes(Protocol::Tcp, "127.0.0.1:81", "127.0.0.1:50000"), "within the sandbox");
    assert!(comes(Protocol::Udp, "203.0.113.1:40000", "198.51.100.1:53"), "an answer");
    assert!(!comes(Protocol::Udp, "203.0.113.1:40000", "198.51.100.1:54"));
    assert!(!comes(Protocol::Tcp, "203.0.113.1:40000", "198.51.100.1:53"));
}

#[test]
fn binds_are_denied_by_rules_alone() {
    let bind = |policy: &Policy, local: &str| {
        policy.decide(Direction::Bind, Protocol::Tcp, local.parse().unwrap(), NOBODY).is_allowed()
    };
    assert!(bind(&policy(&["allow 192.0.2.1"]), "0.0.0.0:80"));
    let some = policy(&["allow bind tcp any:8000-8999"]);
    assert!(bind(&some, "0.0.0.0:8080") && !bind(&some, "0.0.0.0:80") && bind(&some, "127.0.0.1:0"));
    let one = policy(&["deny bind 192.0.2.1:80"]);
    assert!(!bind(&one, "192.0.2.1:80") && bind(&one, "192.0.2.2:80") && bind(&one, "192.0.2.1:81"));
    assert!(!bind(&one, "0.0.0.0:80") && !bind(&one, "[::]:80"), "all addresses have it among them");
    let six = policy(&[
        "allow bind tcp [::/0]:80",
        "allow bind tcp any:81",
        "allow bind tcp [::/0]:82",
        "allow bind tcp 0.0.0.0/0:82",
    ]);
    assert!(bind(&six, "[::1]:80") && !bind(&six, "[::]:80"), "IPv4 is among them, too");
    assert!(bind(&six, "[::]:81") && bind(&six, "[::]:82") && !bind(&six, "0.0.0.0:80"));
    assert!(
        one.concerns_loopback_datagrams() && !policy(&["deny bind tcp any"]).concerns_loopback_datagrams()
    );
}

#[test]
fn raw_sockets_need_a_rule_of_their_own() {
    assert!(!policy(&["allow any"]).allows_raw().is_allowed());
    assert!(!policy(&["deny 192.0.2.1"]).allows_raw().is_allowed());
    assert!(policy(&["allow raw"]).allows_raw().is_allowed());
    assert!(
        policy(&["allow icmp 192.0.2.1"])
            .decide(Direction::Out, Protocol::Icmp, NOBODY, "192.0.2.1:0".parse().unwrap())
            .is_allowed()
    );
}

#[test]
fn rules_are_read_and_written() {
    let same = [
        "allow out tcp 192.0.2.1:443",
        "deny in any:80-90",
        "allow bind udp [2001:db8::1]:53",
        "allow out 2001:db8::/32",
        "deny out icmp any",
        "allow out raw any",
        "allow out tcp [2001:db8::/32]:443",
    ];
    for text in same {
        assert_eq!(Rule::parse_with_verb(text).unwrap().to_string(), text);
    }
    let shorter = [
        ("allow 192.0.2.1", "allow out 192.0.2.1"),
        ("  deny   any ", "deny out any"),
        ("allow tcp", "allow out tcp any"),
        ("allow ::ffff:192.0.2.1", "allow out 192.0.2.1"),
        ("allow ::ffff:192.0.2.0/120", "allow out 192.0.2.0/24"),
        ("allow *:*", "allow out any"),
        ("allow [::1]:80", "allow out [::1]:80"),
    ];
    for (text, whole) in shorter {
        assert_eq!(Rule::parse_with_verb(text).unwrap().to_string(), whole);
    }
}

#[test]
fn what_is_no_rule_says_where_and_what_was_expected() {
    let cases = [
        ("", 1, "expected a rule"),
        ("permit any", 1, "allow or deny"),
        ("allow", 6, "expected an address"),
        ("allow tcp 192.0.2.300:80", 11, "no address"),
        ("allow tcp example.org:80", 11, "names are not rules yet"),
        ("allow tcp 192.0.2.1:0", 21, "no port"),
        ("allow tcp 192.0.2.1:90-80", 21, "before it begins"),
        ("allow tcp 192.0.2.1:80-", 24, "no port"),
        ("allow 192.0.2.1/24", 7, "expected 192.0.2.0/24"),
        ("allow 192.0.2.0/33", 17, "expected 0 to 32"),
        ("allow [::1:80", 7, "no ']'"),
        ("allow [::1]80", 12, "expected ':'"),
        ("allow icmp any:80", 1, "no ports"),
        ("allow raw 192.0.2.1", 1, "raw any"),
        ("allow any any", 11, "last word"),
        ("allow tcp 192.0.2.1:+80", 21, "no port"),
    ];
    for (text, column, what) in cases {
        let error = Rule::parse_with_verb(text).unwrap_err();
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.text.contains(what), "{text}: {error}");
    }
}

#[test]
fn a_file_has_rules_and_settings() {
    let text = "# An agent.\ndefault = \"deny\"\nallow-private = true\ndeny-with = \"refused\"\nrules = [\n  \"allow tcp 192.0.2.1:443\",\n  'deny any',\n]\n";
    let file = PolicyFile::parse(text).unwrap();
    assert_eq!(file.spec.rules.len(), 2);
    assert!(file.spec.allow_private && file.spec.default == Some(Action::Deny));
    assert_eq!(file.spec.deny_with, Some(crate::route::Denial::Refused));
    assert_eq!(PolicyFile::parse("").unwrap(), PolicyFile::default());
}

#[test]
fn a_bad_file_says_line_and_column() {
    let cases = [
        ("default = \"maybe\"\n", 1, 11, "expected `allow` or `deny`"),
        ("\nrule = []\n", 2, 1, "unknown field"),
        ("rules = [\n  \"allow tcp 192.0.2.1:443\",\n  \"allow tcp 192.0.2.1:x\",\n]\n", 3, 24, "no port"),
        ("rules = [\"allow any\"\n", 1, 21, "unclosed array"),
        ("rules = [1]\n", 1, 10, "string"),
        ("rules = [\"allow \\u0061ny:x\"]\n", 1, 10, "no port"),
    ];
    for (text, line, column, what) in cases {
        let error = PolicyFile::parse(text).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        assert!(error.text.contains(what) && !error.text.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn flows_are_read() {
    assert_eq!(
        parse_flow("tcp 192.0.2.1:80").unwrap(),
        (Direction::Out, Protocol::Tcp, "192.0.2.1:80".parse().unwrap())
    );
    assert_eq!(parse_flow("in udp [::1]:53").unwrap().0, Direction::In);
    for wrong in ["tcp any:80", "tcp 192.0.2.1", "tcp 192.0.2.0/24:80", "tcp 192.0.2.1:80-90"] {
        assert!(parse_flow(wrong).is_err(), "{wrong}");
    }
}

/// The decision on public addresses by looking at every rule in turn.
fn slow(spec: &PolicySpec, protocol: Protocol, ip: IpAddr, port: u16) -> Option<usize> {
    spec.rules.iter().position(|rule| {
        rule.direction == Direction::Out
            && rule.speaks(protocol)
            && rule.net.contains(ip)
            && rule.has_port(port)
    })
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    // Few addresses, so that rules meet them, all of them public.
    prop_oneof![
        (0..4_u8, 0..4_u8).prop_map(|(c, d)| IpAddr::from([8, 8, c, d])),
        (0..4_u16, 0..4_u16).prop_map(|(g, h)| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, g, h))),
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let net = prop_oneof![
        1 => Just(Net::Any),
        8 => (any_ip(), 0..=128_u8).prop_map(|(ip, length)| {
            let length = length.min(place::width(ip));
            Net::Prefix(place::masked(ip, length), length)
        }),
    ];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let protocol = prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))];
    let ports = prop_oneof![Just(None), (1..5_u16, 0..3_u16).prop_map(|(low, more)| Some(low..=low + more))];
    (action, protocol, net, ports).prop_map(|(action, protocol, net, ports)| Rule {
        action,
        direction: Direction::Out,
        protocol,
        net,
        ports,
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_a_look_at_every_rule_finds(
        rules in proptest::collection::vec(any_rule(), 0..40),
        flows in proptest::collection::vec((any_ip(), 1..8_u16, any::<bool>()), 1..40),
    ) {
        let spec = PolicySpec { rules, ..PolicySpec::default() };
        let policy = Policy::new(spec.clone());
        for (ip, port, is_tcp) in flows {
            let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
            let verdict = policy.decide(Direction::Out, protocol, NOBODY, SocketAddr::new(ip, port));
            match slow(&spec, protocol, ip, port) {
                Some(number) => prop_assert_eq!(verdict, Verdict { action: spec.rules[number].action, reason: Reason::Rule(number) }),
                None => prop_assert_eq!(verdict.reason, Reason::Default),
            }
        }
    }

    #[test]
    fn a_rule_that_is_written_is_read_as_the_same(rule in any_rule()) {
        let text = rule.to_string();
        prop_assert_eq!(Rule::parse_with_verb(&text).unwrap(), rule);
    }

    #[test]
    fn any_text_is_a_policy_or_an_error(text in "[ -~\n]{0,200}", rule in "(allow|deny)?( (in|out|bind|tcp|udp|[0-9a-f.:/\\[\\]*-]{0,20})){0,4}") {
        let _ = PolicyFile::parse(&text);
        let file = format!("rules = [{:?}]", rule);
        match (Rule::parse_with_verb(&rule), PolicyFile::parse(&file)) {
            (Ok(_), Ok(file)) => prop_assert_eq!(file.spec.rules.len(), 1),
            (Err(inner), Err(outer)) => prop_assert_eq!((outer.line, outer.text), (1, inner.text)),
            (inner, outer) => prop_assert!(false, "{:?} {:?}", inner, outer),
        }
    }
}
