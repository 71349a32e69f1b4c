//! The one table of the contract's calls.
//!
//! A call of the contract stands in its trait, where its documentation and its default are, and in
//! [`contract!`](crate::contract!). The wrapper that looks at calls ([`crate::watch`]), their names and their numbers
//! ([`Call`]) come from the table; what is added to the contract touches the trait, the table, and the stacks that have
//! it. A test compares the two.

/// The table: the signature of each call, for each trait. `contract!(THEN)` expands to `THEN! { TABLE }`, and
/// `contract!(THEN for WORDS)` to `THEN! { WORDS; TABLE }`, with the types of this crate in scope.
///
/// A mark says how [`crate::watch::Watched`] passes a call on: as it is without one; `#[checked]` if its answer is
/// checked there by hand; `#[quiet]` if it is nothing that a stack does, so that nobody is to hear of it.
#[macro_export]
macro_rules! contract {
    ($then:ident $(for $($words:tt)+)?) => {
        $then! {
            $($($words)+;)?
            PluginStack {
                fn info(&self) -> StackInfo;
                fn pre_init(&mut self, args: PreInitStackArgs) -> Result<PreInitStack, SetupError>;
                fn prepare(&mut self) -> Result<(), SetupError>;
                fn init(&mut self, args: InitStackArgs) -> Result<(), SetupError>;
                fn seccomp_filters(&self) -> Vec<SyscallRule>;
                fn poll(&mut self, now: Instant) -> ();
                #[checked]
                fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) -> ();
                fn next_deadline(&self) -> Option<Instant>;
                fn destroy(&mut self) -> ();
                fn unfinished(&self) -> usize;
                #[quiet]
                fn failure(&self) -> Option<String>;
                fn wake_fds(&self) -> Vec<WakeFd<'_>>;
                fn offers_host_fds(&self) -> bool;
                fn take_host_fd(&mut self, handle: Handle) -> Result<OwnedFd>;
                fn bind_host_fd(&mut self, fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<()>;
                #[quiet]
                fn owners(&self) -> Option<Arc<Owners>>;
                #[quiet]
                fn recording(&self) -> Option<Box<dyn Recording>>;
                #[quiet]
                fn link_report(&self) -> Option<LinkReport>;
                fn set_link_faults(&mut self, faults: LinkFaults, seed: Option<u64>) -> Result<()>;
            }
            Sockets {
                fn socket(&mut self, spec: SocketSpec) -> Result<Handle>;
                fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()>;
                fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()>;
                fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)>;
                fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()>;
                fn disconnect(&mut self, handle: Handle) -> Result<()>;
                fn local_addr(&self, handle: Handle) -> Result<SocketAddr>;
                fn peer_addr(&self, handle: Handle) -> Result<SocketAddr>;
                #[checked]
                fn send(&mut self, handle: Handle, data: &[u8], to: Option<SocketAddr>, flags: SendFlags,
                    now: Instant) -> Result<usize>;
                #[checked]
                fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, now: Instant)
                    -> Result<Received>;
                #[checked]
                fn send_with(&mut self, handle: Handle, flags: SendFlags, now: Instant, spare: Spare<'_>,
                    fill: &mut Fill<'_>) -> Result<usize>;
                #[checked]
                fn recv_with(&mut self, handle: Handle, now: Instant, spare: Spare<'_>, take: &mut Take<'_>)
                    -> Result<Streamed>;
                #[checked]
                fn send_batch(&mut self, handle: Handle, batch: &[Datagram<'_>], flags: SendFlags, now: Instant)
                    -> Batch;
                #[checked]
                fn recv_batch(&mut self, handle: Handle, limit: usize, now: Instant, scratch: &mut [u8],
                    deliver: &mut dyn FnMut(&Received, &[u8])) -> Batch;
                fn send_room(&self, handle: Handle) -> usize;
                fn queued_in(&self, handle: Handle) -> Result<usize>;
                fn queued_out(&self, handle: Handle) -> Result<usize>;
                fn urgent(&self, handle: Handle) -> Result<usize>;
                fn shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()>;
                fn close(&mut self, handle: Handle, now: Instant) -> Result<()>;
                fn abort(&mut self, handle: Handle, now: Instant) -> Result<()>;
                fn readiness(&self, handle: Handle) -> Result<Events>;
                fn take_error(&mut self, handle: Handle) -> Option<Error>;
                fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()>;
                fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption>;
                fn tcp_info(&self, handle: Handle) -> Result<TcpInfo>;
            }
            PluginNotifier {
                fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()>;
                fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()>;
                fn remove_fd(&mut self, handle: Handle) -> Result<()>;
            }
            Stack {
                fn interfaces(&self) -> Vec<Interface>;
                fn is_own(&self, ip: IpAddr) -> bool;
                fn add_address(&mut self, interface: u32, address: Cidr) -> Result<()>;
                fn remove_address(&mut self, interface: u32, address: Cidr) -> Result<()>;
                fn routes(&self) -> Vec<Route>;
                fn add_route(&mut self, route: Route) -> Result<()>;
                fn remove_route(&mut self, route: Route) -> Result<()>;
                fn tcp_receive_buffer(&self) -> BufferSizes;
                fn set_tcp_receive_buffer(&mut self, sizes: BufferSizes) -> Result<()>;
                fn tcp_send_buffer(&self) -> BufferSizes;
                fn set_tcp_send_buffer(&mut self, sizes: BufferSizes) -> Result<()>;
                fn tcp_sack(&self) -> bool;
                fn set_tcp_sack(&mut self, on: bool) -> Result<()>;
                fn tcp_recovery(&self) -> Recovery;
                fn set_tcp_recovery(&mut self, recovery: Recovery) -> Result<()>;
                fn statistics(&self) -> Statistics;
                fn port_range(&self) -> (u16, u16);
                fn set_port_range(&mut self, first: u16, last: u16) -> Result<()>;
                fn forwarding(&self, domain: Domain) -> bool;
                fn set_forwarding(&mut self, domain: Domain, on: bool) -> Result<()>;
                fn pause(&mut self) -> Result<()>;
                fn resume(&mut self) -> Result<()>;
            }
        }
    };
}

macro_rules! names {
    ($($trait:ident { $($(#[$mark:ident])? fn $call:ident ($($args:tt)*) -> $answer:ty;)* })*) => {
        /// A call of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        #[expect(non_camel_case_types, missing_docs, reason = "the names of the calls themselves")]
        pub enum Call {
            /// The factory that makes a stack: no method, but code of the stack all the same.
            factory = 1,
            $($($call,)*)*
        }

        impl Call {
            /// Every call, in the order of the numbers.
            pub const ALL: &'static [Call] = &[Call::factory, $($(Call::$call,)*)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { Call::factory => "factory", $($(Call::$call => stringify!($call),)*)* }
            }
        }
    };
}
contract!(names);

impl Call {
    /// Its number, from 1: the same in all processes of one build, and of no other.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The call with a number, which may come from a process that is not trusted.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Call> {
        Call::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Whether it belongs to a stack's start, which may take longer than other calls.
    #[must_use]
    pub const fn is_of_start(self) -> bool {
        matches!(self, Call::factory | Call::prepare | Call::init)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_calls_are_a_bijection() {
        for (i, &call) in Call::ALL.iter().enumerate() {
            assert_eq!(usize::from(call.number()), i + 1, "{}", call.name());
            assert_eq!(Call::from_number(call.number()), Some(call));
        }
        assert_eq!(Call::from_number(0), None);
        assert_eq!(Call::from_number(u8::MAX), None);
        assert_eq!(Call::queued_out.name(), "queued_out");
    }

    /// The methods of a trait, as its source has them.
    fn methods<'a>(source: &'a str, of: &str) -> Vec<&'a str> {
        let body = source.split(&format!("\npub trait {of}")).nth(1).unwrap().split("\n}\n").next().unwrap();
        body.lines()
            .filter_map(|line| line.strip_prefix("    fn "))
            .map(|rest| rest.split(['(', '<']).next().unwrap())
            .collect()
    }

    macro_rules! rows {
        ($($trait:ident { $($(#[$mark:ident])? fn $call:ident ($($args:tt)*) -> $answer:ty;)* })*) => {
            [$((stringify!($trait), vec![$(stringify!($call),)*]),)*]
        };
    }

    /// One that is missing in the table would have its default in every wrapper, unseen.
    #[test]
    fn the_table_has_every_method_of_the_traits() {
        let sources = [
            include_str!("stack.rs"),
            include_str!("socket.rs"),
            include_str!("notify.rs"),
            include_str!("inet.rs"),
        ];
        for ((of, mut listed), source) in contract!(rows).into_iter().zip(sources) {
            let mut written = methods(source, of);
            listed.sort_unstable();
            written.sort_unstable();
            assert!(!written.is_empty());
            assert_eq!(listed, written, "{of}");
        }
    }
}
