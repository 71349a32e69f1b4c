//! The JSON texts of level 0 objects, read with tolerance: a stack writes them by hand.
//!
//! Interfaces and addresses come as objects with the interface's index as key, or as lists; names of members in any
//! case, with or without `_`; addresses as dotted text, as lists of numbers, or as base64.

use std::net::IpAddr;

use netgraft_plugin::Cidr;
use netgraft_plugin::inet::{BufferSizes, Interface, Route, check_buffer_sizes};
use serde_json::Value;

/// IFF_UP and IFF_LOOPBACK (netdevice(7)).
const UP: u64 = libc::IFF_UP as u64;
const LOOPBACK: u64 = libc::IFF_LOOPBACK as u64;

/// A member by one of its names, which are in lower case without `_`.
fn member<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    let plain = |key: &str| key.replace('_', "").to_ascii_lowercase();
    value.as_object()?.iter().find(|(key, _)| names.contains(&plain(key).as_str())).map(|(_, value)| value)
}

fn number(value: &Value, names: &[&str]) -> Option<u64> {
    let value = member(value, names)?;
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn small(value: &Value, names: &[&str]) -> Option<u32> {
    u32::try_from(number(value, names)?).ok()
}

/// Bytes as a list of numbers, hexadecimal with colons, or base64.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Array(items) => {
            items.iter().map(|item| u8::try_from(item.as_u64()?).ok()).collect::<Option<Vec<u8>>>()
        }
        Value::String(text) if text.contains(':') => {
            text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect()
        }
        Value::String(text) => base64(text),
        _ => None,
    }
}

/// RFC 4648 section 4.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

fn ip(value: &Value) -> Option<IpAddr> {
    if let Some(addr) = value.as_str().and_then(|text| text.parse().ok()) {
        return Some(addr);
    }
    let bytes = bytes(value)?;
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from)
}

/// The elements with their indices: of an object its keys, of a list its members or places.
fn indexed(value: &Value) -> Vec<(u32, &Value)> {
    match value {
        Value::Object(map) => map.iter().filter_map(|(key, v)| Some((key.trim().parse().ok()?, v))).collect(),
        Value::Array(list) => (1..)
            .zip(list)
            .map(|(place, v)| (small(v, &["index", "ifindex", "idx", "interface"]).unwrap_or(place), v))
            .collect(),
        _ => Vec::new(),
    }
}

fn cidr(value: &Value) -> Option<Cidr> {
    if let Some(text) = value.as_str() {
        return text.parse().ok();
    }
    let addr = ip(member(value, &["addr", "address", "ip", "local"])?)?;
    let prefix = number(value, &["prefixlen", "prefix", "prefixlength", "masklen", "len"])?;
    Cidr::new(addr, u8::try_from(prefix).ok()?)
}

/// The addresses of each interface.
fn addresses(value: &Value) -> Vec<(u32, Cidr)> {
    let mut found = Vec::new();
    for (index, entry) in indexed(value) {
        match entry {
            Value::Array(list) => found.extend(list.iter().filter_map(cidr).map(|c| (index, c))),
            one => found.extend(cidr(one).map(|c| (index, c))),
        }
    }
    found
}

/// The interfaces with their addresses, the loopback first.
pub(crate) fn interfaces(interfaces: &str, addrs: &str) -> Vec<Interface> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let addresses = addresses(&parse(addrs));
    let interfaces = parse(interfaces);
    let mut list: Vec<Interface> = indexed(&interfaces)
        .into_iter()
        .filter_map(|(index, value)| {
            let name = member(value, &["name", "ifname"])?.as_str()?.to_owned();
            let legal = (1..16).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
            let flags = number(value, &["flags"]);
            let hardware = member(value, &["addr", "mac", "hwaddr", "address"]).and_then(bytes);
            let hardware = hardware.and_then(|b| <[u8; 6]>::try_from(b.as_slice()).ok());
            let loopback = flags.map_or(name == "lo", |flags| flags & LOOPBACK != 0);
            let mine = addresses.iter().filter(|(of, _)| *of == index).map(|(_, cidr)| *cidr);
            (legal && index != 0).then_some(Interface {
                index,
                name,
                mtu: small(value, &["mtu"]).unwrap_or(1500),
                up: flags.is_none_or(|flags| flags & UP != 0),
                loopback,
                hardware_address: hardware.filter(|_| !loopback),
                addresses: mine.collect(),
            })
        })
        .collect();
    list.sort_by_key(|interface| (!interface.loopback, interface.index));
    list
}

/// The routes, the most specific first. `interface` is the index of the one that a route is on which names none.
pub(crate) fn routes(text: &str, interface: u32) -> Vec<Route> {
    let value = serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut list: Vec<Route> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|route| {
            let prefix = u8::try_from(number(route, &["dstlen", "prefixlen", "prefix"]).unwrap_or(0)).ok()?;
            let gateway = member(route, &["gatewayaddr", "gateway", "gw", "via"]).and_then(ip);
            let gateway = gateway.filter(|addr| !addr.is_unspecified());
            let any = match gateway {
                Some(IpAddr::V6(_)) => IpAddr::from([0_u8; 16]),
                _ => IpAddr::from([0_u8; 4]),
            };
            let to = member(route, &["dstaddr", "dst", "destination"]).and_then(ip).unwrap_or(any);
            let on = small(route, &["outputinterface", "interface", "oif", "ifindex"]).filter(|i| *i != 0);
            let destination = Cidr::new(to, prefix)?;
            Some(Route { destination, gateway, interface: on.unwrap_or(interface) })
        })
        .collect();
    list.sort_by_key(|route| std::cmp::Reverse(route.destination.prefix()));
    list
}

/// Sizes of buffers; `None` unless they are in order.
pub(crate) fn sizes(text: &str) -> Option<BufferSizes> {
    let value = serde_json::from_str::<Value>(text).ok()?;
    let list = value.as_array();
    let size = |name: &str, place: usize| {
        let listed = list.and_then(|list| list.get(place)?.as_u64());
        u32::try_from(listed.or_else(|| number(&value, &[name]))?).ok()
    };
    let sizes = BufferSizes { min: size("min", 0)?, default: size("default", 1)?, max: size("max", 2)? };
    check_buffer_sizes(sizes).ok().map(|()| sizes)
}

/// A range of ports: `32768,60999`.
pub(crate) fn ports(text: &str) -> Option<(u16, u16)> {
    let text = text.trim_matches(|c: char| !c.is_ascii_digit());
    let (first, last) = text.split_once(|c: char| !c.is_ascii_digit())?;
    let last = last.trim_start_matches(|c: char| !c.is_ascii_digit());
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_come_in_several_shapes() {
        let shapes = [
            (
                r#"{"2":{"DeviceType":1,"Flags":67,"Name":"eth0","Addr":[2,0,0,0,0,9],"MTU":1400},
                    "1":{"Flags":73,"Name":"lo","Addr":[0,0,0,0,0,0],"MTU":65536}}"#,
                r#"{"1":[{"Family":2,"PrefixLen":8,"Flags":128,"Addr":[127,0,0,1]}],
                    "2":[{"Family":2,"PrefixLen":24,"Addr":[192,0,2,9]}]}"#,
            ),
            (
                r#"[{"index":1,"name":"lo","mtu":65536},
                    {"index":2,"name":"eth0","mtu":1400,"flags":67,"mac":"02:00:00:00:00:09"}]"#,
                r#"[{"index":1,"addr":"127.0.0.1","prefix_len":8},{"index":2,"addr":"wAACCQ==","prefix_len":"24"}]"#,
            ),
        ];
        for (text, addrs) in shapes {
            let list = interfaces(text, addrs);
            assert_eq!(list.len(), 2, "{text}");
            assert!(list[0].loopback && list[0].name == "lo" && list[0].hardware_address.is_none());
            assert_eq!(list[0].addresses, ["127.0.0.1/8".parse().unwrap()]);
            assert_eq!((list[1].index, list[1].mtu, list[1].up), (2, 1400, true));
            assert_eq!(list[1].hardware_address, Some([2, 0, 0, 0, 0, 9]));
            assert_eq!(list[1].addresses, ["192.0.2.9/24".parse().unwrap()]);
        }
    }

    #[test]
    fn nonsense_is_left_out() {
        for text in ["", "null", "[", "7", r#"{"1":7}"#, r#"{"0":{"name":"lo"}}"#, r#"{"1":{"name":"a/b"}}"#]
        {
            assert!(interfaces(text, text).is_empty(), "{text}");
            assert!(routes(text, 1).is_empty(), "{text}");
            assert_eq!(sizes(text), None);
        }
        for text in ["", "null", "7", ",", "0,5", "5,4"] {
            assert_eq!(ports(text), None);
        }
        let huge = r#"{"1":[{"addr":"1.2.3.4","prefix":33},{"addr":[1,2,3],"prefix":3},{"addr":[1,2,3,256],"prefix":3}]}"#;
        assert!(addresses(&serde_json::from_str(huge).unwrap()).is_empty());
    }

    #[test]
    fn routes_sizes_and_ports() {
        let text = r#"[{"Family":2,"DstLen":0,"DstAddr":[0,0,0,0],"OutputInterface":0,"GatewayAddr":[192,0,2,1]},
                       {"Family":2,"DstLen":24,"DstAddr":[192,0,2,0],"GatewayAddr":[0,0,0,0]}]"#;
        let list = routes(text, 2);
        assert_eq!(list[0].destination.to_string(), "192.0.2.0/24");
        assert_eq!((list[0].gateway, list[0].interface), (None, 2));
        assert_eq!(list[1].gateway, Some("192.0.2.1".parse().unwrap()));
        let expected = Some(BufferSizes { min: 1, default: 2, max: 3 });
        assert_eq!(sizes(r#"{"Min":1,"Default":2,"Max":3}"#), expected);
        assert_eq!(sizes("[1,2,3]"), expected);
        assert_eq!(sizes("[3,2,1]"), None);
        for text in ["32768,60999", "\"32768,60999\"", "32768 60999", "[32768, 60999]"] {
            assert_eq!(ports(text), Some((32768, 60999)), "{text}");
        }
        assert_eq!(ports("0,5"), None);
        assert_eq!(ports("9,70000"), None);
    }
}
