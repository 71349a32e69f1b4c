//! The table's functions: each converts its arguments, calls the stack behind the panic barrier, and converts the
//! answer.

use netgraft_plugin::Domain;

use super::calls;
use super::*;

/// A function `name(context, args) -> ret` whose body is safe but for what it reads and writes through pointers.
macro_rules! functions {
    ($($name:ident($stack:ident $(, $arg:ident: $ty:ty)*) -> $ret:ty, $broken:expr, $body:expr;)*) => {
        $(
            unsafe extern "C" fn $name(context: *mut c_void $(, $arg: $ty)*) -> $ret {
                // SAFETY: the header says what the context and the pointers are, for the whole call.
                unsafe { with(context, stringify!($name), $broken, |$stack| $body) }
            }
        )*
    };
}

const BROKEN: i32 = codes::BROKEN;
const NOT_SUPPORTED: i32 = crate::NOT_SUPPORTED;

fn at(now: u64) -> Instant {
    Instant::from_nanos(now)
}

/// Writes a value through a pointer of the caller.
///
/// # Safety
/// `out` is null or a place for it.
unsafe fn put<T>(out: *mut T, value: Result<T>) -> i32 {
    match value {
        // SAFETY: the caller's promise.
        Ok(value) if !out.is_null() => unsafe {
            out.write(value);
            0
        },
        Ok(_) => number(Error::Invalid),
        Err(error) => number(error),
    }
}

/// Reads an address of the caller.
///
/// # Safety
/// `addr` is null or points to one.
unsafe fn address(addr: *const raw::Address) -> Result<std::net::SocketAddr> {
    // SAFETY: the caller's promise.
    let addr = unsafe { addr.as_ref() }.ok_or(Error::Invalid)?;
    convert::from_address(addr).ok().flatten().ok_or(Error::FamilyNotSupported)
}

/// Reads a value of the caller that may be nonsense.
///
/// # Safety
/// `value` is null or points to one.
unsafe fn get<T, U>(value: *const T, convert: impl Fn(&T) -> Option<U>) -> Result<U> {
    // SAFETY: the caller's promise.
    unsafe { value.as_ref() }.and_then(convert).ok_or(Error::Invalid)
}

fn domain(family: u32) -> Result<Domain> {
    convert::from_family(family).ok_or(Error::FamilyNotSupported)
}

functions! {
    poll(stack, now: u64) -> (), (), stack.poll(at(now));
    add_fd(stack, handle: u64, mask: u32) -> i32, BROKEN, status(stack.add_fd(Handle(handle), calls::mask(mask)));
    update_fd(stack, handle: u64, mask: u32) -> i32, BROKEN,
        status(stack.update_fd(Handle(handle), calls::mask(mask)));
    remove_fd(stack, handle: u64) -> i32, BROKEN, status(stack.remove_fd(Handle(handle)));
    socket(stack, spec: *const raw::SocketSpec, handle: *mut u64) -> i32, BROKEN, {
        let made = get(spec, convert::from_spec).and_then(|spec| stack.socket(spec));
        put(handle, made.map(|handle| handle.0))
    };
    bind(stack, handle: u64, addr: *const raw::Address) -> i32, BROKEN,
        status(address(addr).and_then(|addr| stack.bind(Handle(handle), addr)));
    connect(stack, handle: u64, addr: *const raw::Address, now: u64) -> i32, BROKEN,
        status(address(addr).and_then(|addr| stack.connect(Handle(handle), addr, at(now))));
    local_addr(stack, handle: u64, out: *mut raw::Address) -> i32, BROKEN,
        put(out, stack.local_addr(Handle(handle)).map(convert::to_address));
    peer_addr(stack, handle: u64, out: *mut raw::Address) -> i32, BROKEN,
        put(out, stack.peer_addr(Handle(handle)).map(convert::to_address));
    shutdown(stack, handle: u64, how: u32, now: u64) -> i32, BROKEN,
        status(codes::shutdown_of(how).ok_or(Error::Invalid)
            .and_then(|how| stack.shutdown(Handle(handle), how, at(now))));
    close(stack, handle: u64, now: u64) -> i32, BROKEN, status(stack.close(Handle(handle), at(now)));
    readiness(stack, handle: u64) -> i64, BROKEN.into(), calls::readiness_of(stack, handle);
    next_deadline(stack) -> u64, raw::NONE, stack.next_deadline().map_or(raw::NONE, Instant::nanos);
    listen(stack, handle: u64, backlog: u32) -> i32, BROKEN, status(stack.listen(Handle(handle), backlog));
    disconnect(stack, handle: u64) -> i32, BROKEN, status(stack.disconnect(Handle(handle)));
    abort(stack, handle: u64, now: u64) -> i32, BROKEN, status(stack.abort(Handle(handle), at(now)));
    send_room(stack, handle: u64) -> u64, raw::NONE, match stack.send_room(Handle(handle)) {
        usize::MAX => raw::NONE,
        room => room as u64,
    };
    queued_in(stack, handle: u64) -> i64, BROKEN.into(), count(stack.queued_in(Handle(handle)));
    queued_out(stack, handle: u64) -> i64, BROKEN.into(), count(stack.queued_out(Handle(handle)));
    take_error(stack, handle: u64) -> i32, BROKEN, stack.take_error(Handle(handle)).map_or(0, number);
    set_option(stack, handle: u64, option: *const raw::Opt) -> i32, BROKEN,
        status(get(option, convert::from_option).and_then(|option| stack.set_option(Handle(handle), option)));
    get_option(stack, handle: u64, out: *mut raw::Opt) -> i32, BROKEN, {
        let name = get(out, |out| codes::option_of(out.name)).map_err(|_| Error::UnknownOption);
        let value = name.and_then(|name| stack.get_option(Handle(handle), name));
        put(out, value.and_then(|value| convert::to_option(&value).ok_or(Error::UnknownOption)))
    };
    tcp_info(stack, handle: u64, out: *mut raw::TcpInfo) -> i32, BROKEN,
        put(out, stack.tcp_info(Handle(handle)).map(|info| convert::to_tcp_info(&info)));
    interfaces(stack, out: *mut raw::Interface, capacity: usize) -> i64, BROKEN.into(), {
        let list = stack.interfaces();
        fill(out, capacity, list.iter().map(convert::to_interface))
    };
    addresses(stack, index: u32, out: *mut raw::Cidr, capacity: usize) -> i64, BROKEN.into(), {
        let interfaces = stack.interfaces();
        let addresses = interfaces.iter().find(|i| i.index == index).map(|i| i.addresses.as_slice());
        fill(out, capacity, addresses.unwrap_or_default().iter().copied().map(convert::to_cidr))
    };
    add_address(stack, index: u32, address: *const raw::Cidr) -> i32, BROKEN,
        status(get(address, convert::from_cidr).and_then(|address| stack.add_address(index, address)));
    remove_address(stack, index: u32, address: *const raw::Cidr) -> i32, BROKEN,
        status(get(address, convert::from_cidr).and_then(|address| stack.remove_address(index, address)));
    routes(stack, out: *mut raw::Route, capacity: usize) -> i64, BROKEN.into(), {
        let list = stack.routes();
        fill(out, capacity, list.iter().map(convert::to_route))
    };
    add_route(stack, route: *const raw::Route) -> i32, BROKEN,
        status(get(route, convert::from_route).and_then(|route| stack.add_route(route)));
    remove_route(stack, route: *const raw::Route) -> i32, BROKEN,
        status(get(route, convert::from_route).and_then(|route| stack.remove_route(route)));
    tcp_receive_buffer(stack, out: *mut raw::BufferSizes) -> i32, BROKEN,
        put(out, Ok(convert::to_sizes(stack.tcp_receive_buffer())));
    set_tcp_receive_buffer(stack, sizes: *const raw::BufferSizes) -> i32, BROKEN,
        status(get(sizes, |s| convert::from_sizes(*s)).and_then(|sizes| stack.set_tcp_receive_buffer(sizes)));
    tcp_send_buffer(stack, out: *mut raw::BufferSizes) -> i32, BROKEN,
        put(out, Ok(convert::to_sizes(stack.tcp_send_buffer())));
    set_tcp_send_buffer(stack, sizes: *const raw::BufferSizes) -> i32, BROKEN,
        status(get(sizes, |s| convert::from_sizes(*s)).and_then(|sizes| stack.set_tcp_send_buffer(sizes)));
    tcp_sack(stack) -> i32, BROKEN, stack.tcp_sack().into();
    set_tcp_sack(stack, on: u32) -> i32, BROKEN, status(stack.set_tcp_sack(on != 0));
    tcp_recovery(stack) -> i32, BROKEN,
        codes::recovery_number(stack.tcp_recovery()).map_or(NOT_SUPPORTED, u32::cast_signed);
    set_tcp_recovery(stack, recovery: u32) -> i32, BROKEN,
        status(codes::recovery_of(recovery).ok_or(Error::Invalid)
            .and_then(|recovery| stack.set_tcp_recovery(recovery)));
    statistics(stack, out: *mut raw::Statistics) -> i32, BROKEN,
        put(out, Ok(convert::to_statistics(&stack.statistics())));
    port_range(stack, first: *mut u16, last: *mut u16) -> i32, BROKEN, {
        let (from, to) = stack.port_range();
        put(first, Ok(from)).min(put(last, Ok(to)))
    };
    set_port_range(stack, first: u16, last: u16) -> i32, BROKEN, status(stack.set_port_range(first, last));
    forwarding(stack, family: u32) -> i32, BROKEN,
        domain(family).map_or_else(number, |family| stack.forwarding(family).into());
    set_forwarding(stack, family: u32, on: u32) -> i32, BROKEN,
        status(domain(family).and_then(|family| stack.set_forwarding(family, on != 0)));
    pause(stack) -> i32, BROKEN, status(stack.pause());
    resume(stack) -> i32, BROKEN, status(stack.resume());
}

/// The functions; what describes the stack is filled in by [`super::describe`].
pub(super) const TABLE: Table = Table {
    size: 0,
    version: 0,
    flags: 0,
    name: ptr::null(),
    version_text: ptr::null(),
    needs: ptr::null(),
    sockets: ptr::null(),
    socket_count: 0,
    options: ptr::null(),
    option_count: 0,
    rules: ptr::null(),
    rule_count: 0,
    create: Some(calls::create),
    destroy: Some(calls::destroy),
    init: Some(calls::init),
    poll: Some(poll),
    drain_events: Some(calls::drain_events),
    add_fd: Some(add_fd),
    update_fd: Some(update_fd),
    remove_fd: Some(remove_fd),
    socket: Some(socket),
    bind: Some(bind),
    connect: Some(connect),
    local_addr: Some(local_addr),
    peer_addr: Some(peer_addr),
    send: Some(calls::send),
    recv: Some(calls::recv),
    shutdown: Some(shutdown),
    close: Some(close),
    readiness: Some(readiness),
    pre_init: Some(calls::pre_init),
    next_deadline: Some(next_deadline),
    wake_fds: Some(calls::wake_fds),
    listen: Some(listen),
    accept: Some(calls::accept),
    disconnect: Some(disconnect),
    abort: Some(abort),
    send_room: Some(send_room),
    queued_in: Some(queued_in),
    queued_out: Some(queued_out),
    take_error: Some(take_error),
    set_option: Some(set_option),
    get_option: Some(get_option),
    tcp_info: Some(tcp_info),
    interfaces: Some(interfaces),
    addresses: Some(addresses),
    add_address: Some(add_address),
    remove_address: Some(remove_address),
    routes: Some(routes),
    add_route: Some(add_route),
    remove_route: Some(remove_route),
    tcp_receive_buffer: Some(tcp_receive_buffer),
    set_tcp_receive_buffer: Some(set_tcp_receive_buffer),
    tcp_send_buffer: Some(tcp_send_buffer),
    set_tcp_send_buffer: Some(set_tcp_send_buffer),
    tcp_sack: Some(tcp_sack),
    set_tcp_sack: Some(set_tcp_sack),
    tcp_recovery: Some(tcp_recovery),
    set_tcp_recovery: Some(set_tcp_recovery),
    statistics: Some(statistics),
    port_range: Some(port_range),
    set_port_range: Some(set_port_range),
    forwarding: Some(forwarding),
    set_forwarding: Some(set_forwarding),
    pause: Some(pause),
    resume: Some(resume),
    take_host_fd: Some(calls::take_host_fd),
    bind_host_fd: Some(calls::bind_host_fd),
};
