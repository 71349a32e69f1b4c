//! An instance of a level 1 stack: its context, and the calls on it.

use std::cell::{Cell, OnceCell};
use std::ffi::{CString, c_char, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;

use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{Error, Instant, LinkConfig, Result, StackConfig};

use crate::codes;
use crate::convert;
use crate::log::{self, Logger, written_text};
use crate::object::Loaded;
use crate::raw;
use crate::table;
use crate::watch::{Call, Caller};

/// Room for a stack's reason why it could not be set up, in bytes.
const WHY: usize = 1024;
/// Room for what `pre_init` hands over: bytes of text, and descriptors.
const TEXT: usize = 64 * 1024;
const FDS: usize = 200;

/// Calls a function of the table, with the context as its first argument. Evaluates to what it returns, and to the
/// second argument of the macro if the function is absent.
macro_rules! call {
    ($instance:expr, $absent:expr, $name:ident($($arg:expr),*)) => {{
        let instance: &$crate::level1::instance::Instance = $instance;
        match instance.table.$name {
            Some(function) => {
                let _inside = instance.enter($crate::watch::Call::$name);
                // SAFETY: the table says that this is the function of the header, the context is what its `create`
                // made and was not destroyed, and each pointer among the arguments leads to a live object of the
                // type and size that the header says.
                unsafe { function(instance.context $(, $arg)*) }
            }
            None => $absent,
        }
    }};
}
pub(crate) use call;

/// A context of the stack, from `create` to `destroy`.
pub(crate) struct Instance {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) table: Box<raw::Table>,
    pub(crate) context: *mut c_void,
    /// How often the stack broke the contract.
    nonsense: Cell<u64>,
    /// Why the stack cannot go on.
    failure: OnceCell<String>,
    /// What the stack may call: it must live, and stay where it is, until the end.
    _host: Box<raw::Host>,
    logger: Box<Logger>,
}

// SAFETY: the header says that one instance is called from one thread at a time, not always from the same; `&mut`
// and `!Sync` see to that. The rest is owned.
unsafe impl Send for Instance {}

/// A configuration in C, with what it points to.
struct CConfig {
    link_name: CString,
    addresses: Vec<raw::Cidr>,
    gateways: Vec<raw::Ip>,
    argument: Option<CString>,
    kind: u32,
}

impl CConfig {
    fn new(config: &StackConfig) -> Result<CConfig, SetupError> {
        let text = |text: &str| {
            CString::new(text).map_err(|_| SetupError::new("an argument of the stack has a zero byte in it"))
        };
        let (kind, name) = match &config.link {
            LinkConfig::None => (codes::LINK_NONE, ""),
            LinkConfig::Tap(tap) => (codes::LINK_TAP, tap.name.as_str()),
            LinkConfig::Packet(packet) => (codes::LINK_PACKET, packet.interface.as_str()),
            // Its frames come as those of a TAP device do.
            LinkConfig::Passt(_) => (codes::LINK_TAP, "passt"),
            other => return Err(SetupError::new(format!("the C interface has no link such as {other}"))),
        };
        Ok(CConfig {
            link_name: text(name)?,
            addresses: config.addresses.iter().copied().map(convert::to_cidr).collect(),
            gateways: config.gateways.iter().copied().map(convert::to_ip).collect(),
            argument: config.argument.as_deref().map(text).transpose()?,
            kind,
        })
    }

    fn raw(&self) -> raw::Config {
        raw::Config {
            size: size_of::<raw::Config>() as u32,
            link_kind: self.kind,
            link_name: self.link_name.as_ptr(),
            addresses: self.addresses.as_ptr(),
            address_count: self.addresses.len(),
            gateways: self.gateways.as_ptr(),
            gateway_count: self.gateways.len(),
            argument: self.argument.as_ref().map_or(ptr::null(), |a| a.as_ptr()),
        }
    }
}

impl Instance {
    /// Links the object and makes a context.
    pub(crate) fn create(loaded: &Arc<Loaded>, config: &StackConfig) -> Result<Instance, SetupError> {
        let failed = |text: &str| SetupError::new(format!("the stack {} {text}", loaded.object()));
        let library = loaded.link().map_err(|text| failed(&format!("cannot be linked: {text}")))?;
        // SAFETY: the header says what the symbol of this name is.
        let entry = unsafe { library.symbol::<raw::Entry>(c"netgraft_stack") };
        let entry = entry.ok_or_else(|| failed("has lost its entry point"))?;
        let table = {
            let _inside = loaded.watch().enter(Caller::Loop, Call::netgraft_stack);
            table::fetch(entry).map_err(|_| failed("returns another table than before"))?
        };
        let mut logger = Box::new(Logger::new(&loaded.info().name));
        let host = Box::new(raw::Host {
            size: size_of::<raw::Host>() as u32,
            version: raw::VERSION,
            context: ptr::from_mut(&mut *logger).cast(),
            log: Some(log::log),
        });
        let c_config = CConfig::new(config)?;
        let raw_config = c_config.raw();
        let (mut context, mut why) = (ptr::null_mut(), [0_u8; WHY]);
        let Some(create) = table.create else { return Err(failed("has no create")) };
        let result = {
            let _inside = loaded.watch().enter(Caller::Loop, Call::create);
            // SAFETY: the arguments are alive and of the types that the header says; `host` lives in what is returned.
            unsafe {
                create(
                    &raw const raw_config,
                    &raw const *host,
                    &raw mut context,
                    why.as_mut_ptr().cast::<c_char>(),
                    WHY,
                )
            }
        };
        if result != 0 {
            return Err(failed(&format!("refuses its configuration: {}", written_text(&why))));
        }
        let loaded = Arc::clone(loaded);
        let (nonsense, failure) = (Cell::new(0), OnceCell::new());
        Ok(Instance { loaded, table, context, nonsense, failure, _host: host, logger })
    }

    pub(crate) fn enter(&self, call: Call) -> crate::watch::Inside<'_> {
        self.loaded.watch().enter(Caller::Loop, call)
    }

    /// The stack broke the contract: that is logged, ever more rarely for a stack that does so again and again, and the
    /// program gets [`Error::Io`].
    pub(crate) fn nonsense(&self, call: Call, what: std::fmt::Arguments<'_>) -> Error {
        let count = self.nonsense.get() + 1;
        self.nonsense.set(count);
        if count.is_power_of_two() {
            let (stack, call) = (self.loaded.object(), call.name());
            tracing::error!(stack, call, count, "the stack {stack} breaks its contract in {call}: {what}");
        }
        Error::Io
    }

    /// Why the stack cannot go on, once that is so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// A count, or the error that a negative result stands for.
    pub(crate) fn count(&self, call: Call, result: i64) -> Result<u64> {
        if result == i64::from(codes::BROKEN) {
            let why =
                || format!("it is broken since its call '{}': {}", call.name(), self.logger.last_error());
            self.failure.get_or_init(why);
            return Err(Error::NetworkDown);
        }
        codes::result_of(result).map_err(|error| {
            error.unwrap_or_else(|| self.nonsense(call, format_args!("the result {result} means nothing")))
        })
    }

    /// Success, or the error that a result stands for.
    pub(crate) fn status(&self, call: Call, result: i32) -> Result<()> {
        match self.count(call, result.into())? {
            0 => Ok(()),
            other => Err(self.nonsense(call, format_args!("the result {other} means nothing"))),
        }
    }

    /// All elements of a list function. `fill` takes a pointer and a capacity.
    pub(crate) fn list<T: Default + Clone>(
        &self,
        call: Call,
        fill: impl Fn(*mut T, usize) -> i64,
    ) -> Result<Vec<T>> {
        const LIMIT: u64 = 65_536;
        // A list may grow between two calls, but not each time.
        const CALLS: u32 = 8;
        let mut room = 16;
        for _ in 0..CALLS {
            let mut items = vec![T::default(); room];
            let count = self.count(call, fill(items.as_mut_ptr(), room))?;
            if count > LIMIT {
                return Err(self.nonsense(call, format_args!("a list of {count} elements")));
            }
            // Below the limit, so it fits.
            let count = count as usize;
            if count <= room {
                items.truncate(count);
                return Ok(items);
            }
            room = count;
        }
        Err(self.nonsense(call, format_args!("a list that grows in each of {CALLS} calls")))
    }

    /// `pre_init`: the text and the descriptors, which are the caller's now. `link` is the description of the link that
    /// the launcher has opened, and its descriptor: a stack hands them on as they are, or others.
    pub(crate) fn pre_init(
        &self,
        pid: u32,
        link: Option<(&str, RawFd)>,
    ) -> Result<(Vec<u8>, Vec<RawFd>), String> {
        let (mut text, mut fds, mut why) = (vec![0_u8; TEXT], vec![-1_i32; FDS], [0_u8; WHY]);
        let (mut text_length, mut fd_count) = (0, 0);
        if let Some((description, fd)) = link {
            text_length = description.len().min(TEXT);
            text[..text_length].copy_from_slice(&description.as_bytes()[..text_length]);
            (fds[0], fd_count) = (fd, 1);
        }
        let mut out = raw::Handover {
            text: text.as_mut_ptr().cast(),
            text_capacity: TEXT,
            text_length,
            fds: fds.as_mut_ptr(),
            fd_capacity: FDS,
            fd_count,
        };
        let result = call!(self, 0, pre_init(pid, &raw mut out, why.as_mut_ptr().cast(), WHY));
        if result != 0 {
            return Err(self.reason(result, &why));
        }
        if out.text_length > TEXT || out.fd_count > FDS {
            return Err("it says that it wrote more than there is room for".to_owned());
        }
        text.truncate(out.text_length);
        fds.truncate(out.fd_count);
        Ok((text, fds))
    }

    /// `init`: the descriptors are the stack's if it succeeds.
    pub(crate) fn init(&self, text: &[u8], fds: &[RawFd], now: Instant) -> Result<(), String> {
        let mut why = [0_u8; WHY];
        let result = call!(
            self,
            codes::error_number(Error::Io).unwrap_or(-1),
            init(
                text.as_ptr().cast(),
                text.len(),
                fds.as_ptr(),
                fds.len(),
                now.nanos(),
                why.as_mut_ptr().cast(),
                WHY
            )
        );
        if result == 0 { Ok(()) } else { Err(self.reason(result, &why)) }
    }

    /// Why it could not be set up.
    fn reason(&self, result: i32, why: &[u8]) -> String {
        if result == codes::BROKEN { self.logger.last_error() } else { written_text(why) }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        call!(self, (), destroy());
    }
}
