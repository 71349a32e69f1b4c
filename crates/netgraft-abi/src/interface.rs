//! The one table of the functions in `include/netgraft.h`.
//!
//! The C types ([`crate::raw::Table`]), the functions of an exported stack in Rust ([`crate::export`]), the names
//! of calls ([`crate::watch::Call`]) and the check of what an object has ([`crate::table`]) come from it. What each
//! function means is said in the header, and in the traits of `netgraft-plugin`.

/// The functions in the order of the header, but for `create`, which has no context: `interface!(THEN)` expands to
/// `THEN! { TABLE }`, and `interface!(THEN for WORDS)` to `THEN! { WORDS; TABLE }`.
///
/// A row has the function's name, its arguments behind the context, and its answer. `#[required]` marks what no object
/// may lack. Where the function of a stack in Rust is a conversion and no more, the row ends in it: the answer once
/// the stack is broken, and what calls it. The others are written by hand in `export/calls.rs`.
macro_rules! interface {
    ($then:ident $(for $($words:tt)+)?) => {
        $then! {
            $($($words)+;)?
            #[required] destroy() -> ();
            #[required] init(text: *const c_char, length: usize, fds: *const i32, count: usize, now: u64,
                why: *mut c_char, capacity: usize) -> i32;
            #[required] poll(now: u64) -> () = (), |stack| stack.poll(at(now));
            #[required] drain_events(events: *mut raw::Event, capacity: usize) -> i64;
            #[required] add_fd(handle: u64, mask: u32) -> i32 = BROKEN, |stack|
                status(stack.add_fd(Handle(handle), events(mask)));
            #[required] update_fd(handle: u64, mask: u32) -> i32 = BROKEN, |stack|
                status(stack.update_fd(Handle(handle), events(mask)));
            #[required] remove_fd(handle: u64) -> i32 = BROKEN, |stack| status(stack.remove_fd(Handle(handle)));
            #[required] socket(spec: *const raw::SocketSpec, handle: *mut u64) -> i32 = BROKEN, |stack| {
                let made = get(spec, convert::from_spec).and_then(|spec| stack.socket(spec));
                put(handle, made.map(|handle| handle.0))
            };
            #[required] bind(handle: u64, addr: *const raw::Address) -> i32 = BROKEN, |stack|
                status(address(addr).and_then(|addr| stack.bind(Handle(handle), addr)));
            #[required] connect(handle: u64, addr: *const raw::Address, now: u64) -> i32 = BROKEN, |stack|
                status(address(addr).and_then(|addr| stack.connect(Handle(handle), addr, at(now))));
            #[required] local_addr(handle: u64, out: *mut raw::Address) -> i32 = BROKEN, |stack|
                put(out, stack.local_addr(Handle(handle)).map(convert::to_address));
            #[required] peer_addr(handle: u64, out: *mut raw::Address) -> i32 = BROKEN, |stack|
                put(out, stack.peer_addr(Handle(handle)).map(convert::to_address));
            #[required] send(handle: u64, data: *const c_void, length: usize, to: *const raw::Address, flags: u32,
                now: u64) -> i64;
            #[required] recv(handle: u64, buffer: *mut c_void, capacity: usize, flags: u32, now: u64,
                received: *mut raw::Received) -> i32;
            #[required] shutdown(handle: u64, how: u32, now: u64) -> i32 = BROKEN, |stack| {
                let how = codes::shutdown_of(how).ok_or(Error::Invalid);
                status(how.and_then(|how| stack.shutdown(Handle(handle), how, at(now))))
            };
            #[required] close(handle: u64, now: u64) -> i32 = BROKEN, |stack|
                status(stack.close(Handle(handle), at(now)));
            #[required] readiness(handle: u64) -> i64 = BROKEN.into(), |stack|
                stack.readiness(Handle(handle)).map_or_else(|e| number(e).into(), |ready| ready.bits().into());

            pre_init(pid: u32, out: *mut raw::Handover, why: *mut c_char, capacity: usize) -> i32;
            next_deadline() -> u64 = raw::NONE, |stack| stack.next_deadline().map_or(raw::NONE, Instant::nanos);
            wake_fds(out: *mut raw::WakeFd, capacity: usize) -> i64;
            listen(handle: u64, backlog: u32) -> i32 = BROKEN, |stack| status(stack.listen(Handle(handle), backlog));
            accept(handle: u64, connection: *mut u64, peer: *mut raw::Address) -> i32;
            disconnect(handle: u64) -> i32 = BROKEN, |stack| status(stack.disconnect(Handle(handle)));
            abort(handle: u64, now: u64) -> i32 = BROKEN, |stack| status(stack.abort(Handle(handle), at(now)));
            send_room(handle: u64) -> u64 = raw::NONE, |stack| match stack.send_room(Handle(handle)) {
                usize::MAX => raw::NONE,
                room => room as u64,
            };
            queued_in(handle: u64) -> i64 = BROKEN.into(), |stack| count(stack.queued_in(Handle(handle)));
            queued_out(handle: u64) -> i64 = BROKEN.into(), |stack| count(stack.queued_out(Handle(handle)));
            take_error(handle: u64) -> i32 = BROKEN, |stack| stack.take_error(Handle(handle)).map_or(0, number);
            set_option(handle: u64, option: *const raw::Opt) -> i32 = BROKEN, |stack|
                status(get(option, convert::from_option)
                    .and_then(|option| stack.set_option(Handle(handle), option)));
            get_option(handle: u64, out: *mut raw::Opt) -> i32 = BROKEN, |stack| {
                let name = get(out, |out| codes::option_of(out.name)).map_err(|_| Error::UnknownOption);
                let value = name.and_then(|name| stack.get_option(Handle(handle), name));
                put(out, value.and_then(|value| convert::to_option(&value).ok_or(Error::UnknownOption)))
            };
            tcp_info(handle: u64, out: *mut raw::TcpInfo) -> i32 = BROKEN, |stack|
                put(out, stack.tcp_info(Handle(handle)).map(|info| convert::to_tcp_info(&info)));

            interfaces(out: *mut raw::Interface, capacity: usize) -> i64 = BROKEN.into(), |stack| {
                let list = stack.interfaces();
                fill(out, capacity, list.iter().map(convert::to_interface))
            };
            addresses(index: u32, out: *mut raw::Cidr, capacity: usize) -> i64 = BROKEN.into(), |stack| {
                let interfaces = stack.interfaces();
                let addresses = interfaces.iter().find(|i| i.index == index).map(|i| i.addresses.as_slice());
                fill(out, capacity, addresses.unwrap_or_default().iter().copied().map(convert::to_cidr))
            };
            add_address(index: u32, address: *const raw::Cidr) -> i32 = BROKEN, |stack|
                status(get(address, convert::from_cidr).and_then(|address| stack.add_address(index, address)));
            remove_address(index: u32, address: *const raw::Cidr) -> i32 = BROKEN, |stack|
                status(get(address, convert::from_cidr).and_then(|address| stack.remove_address(index, address)));
            routes(out: *mut raw::Route, capacity: usize) -> i64 = BROKEN.into(), |stack| {
                let list = stack.routes();
                fill(out, capacity, list.iter().map(convert::to_route))
            };
            add_route(route: *const raw::Route) -> i32 = BROKEN, |stack|
                status(get(route, convert::from_route).and_then(|route| stack.add_route(route)));
            remove_route(route: *const raw::Route) -> i32 = BROKEN, |stack|
                status(get(route, convert::from_route).and_then(|route| stack.remove_route(route)));
            tcp_receive_buffer(out: *mut raw::BufferSizes) -> i32 = BROKEN, |stack|
                put(out, Ok(convert::to_sizes(stack.tcp_receive_buffer())));
            set_tcp_receive_buffer(sizes: *const raw::BufferSizes) -> i32 = BROKEN, |stack|
                status(get(sizes, |s| convert::from_sizes(*s))
                    .and_then(|sizes| stack.set_tcp_receive_buffer(sizes)));
            tcp_send_buffer(out: *mut raw::BufferSizes) -> i32 = BROKEN, |stack|
                put(out, Ok(convert::to_sizes(stack.tcp_send_buffer())));
            set_tcp_send_buffer(sizes: *const raw::BufferSizes) -> i32 = BROKEN, |stack|
                status(get(sizes, |s| convert::from_sizes(*s)).and_then(|sizes| stack.set_tcp_send_buffer(sizes)));
            tcp_sack() -> i32 = BROKEN, |stack| stack.tcp_sack().into();
            set_tcp_sack(on: u32) -> i32 = BROKEN, |stack| status(stack.set_tcp_sack(on != 0));
            tcp_recovery() -> i32 = BROKEN, |stack|
                codes::recovery_number(stack.tcp_recovery()).map_or(crate::NOT_SUPPORTED, u32::cast_signed);
            set_tcp_recovery(recovery: u32) -> i32 = BROKEN, |stack| {
                let recovery = codes::recovery_of(recovery).ok_or(Error::Invalid);
                status(recovery.and_then(|recovery| stack.set_tcp_recovery(recovery)))
            };
            statistics(out: *mut raw::Statistics) -> i32 = BROKEN, |stack|
                put(out, Ok(convert::to_statistics(&stack.statistics())));
            port_range(first: *mut u16, last: *mut u16) -> i32 = BROKEN, |stack| {
                let (from, to) = stack.port_range();
                put(first, Ok(from)).min(put(last, Ok(to)))
            };
            set_port_range(first: u16, last: u16) -> i32 = BROKEN, |stack|
                status(stack.set_port_range(first, last));
            forwarding(family: u32) -> i32 = BROKEN, |stack|
                domain(family).map_or_else(number, |family| stack.forwarding(family).into());
            set_forwarding(family: u32, on: u32) -> i32 = BROKEN, |stack|
                status(domain(family).and_then(|family| stack.set_forwarding(family, on != 0)));
            pause() -> i32 = BROKEN, |stack| status(stack.pause());
            resume() -> i32 = BROKEN, |stack| status(stack.resume());

            take_host_fd(handle: u64) -> i32;
            bind_host_fd(fd: i32, addr: *const raw::Address) -> i32;

            // Version 1.1.
            send_with(handle: u64, flags: u32, now: u64, fill: raw::Lend, caller: *mut c_void) -> i64;
            recv_with(handle: u64, now: u64, take: raw::Lend, caller: *mut c_void) -> i64;
            send_batch(handle: u64, batch: *const raw::Datagram, count: usize, flags: u32, now: u64,
                stopped: *mut i32) -> i64;
            recv_batch(handle: u64, limit: usize, now: u64, deliver: raw::Deliver, caller: *mut c_void,
                stopped: *mut i32) -> i64;

            // Version 1.2.
            urgent(handle: u64) -> i64 = BROKEN.into(), |stack| count(stack.urgent(Handle(handle)));

            // Version 1.3.
            tcp_details(handle: u64, out: *mut raw::TcpDetails) -> i32 = BROKEN, |stack|
                put(out, stack.tcp_info(Handle(handle)).map(|info| convert::to_tcp_details(&info)));
            tcp_counters(out: *mut raw::TcpCounter, capacity: usize) -> i64 = BROKEN.into(), |stack|
                fill(out, capacity, convert::to_tcp_counters(&stack.statistics().tcp));
        }
    };
}
pub(crate) use interface;
