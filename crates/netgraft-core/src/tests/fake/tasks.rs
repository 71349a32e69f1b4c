//! [`Program`] of the fake kernel: memory, descriptor tables, and answers, each of which is given once.

use super::kernel::{FakeKernel, File};
use super::unix::Kind;
use super::world::{Descriptor, Reply};
use crate::program::{Caller, ForeignCall, Gone, InjectError, Privilege, Program, ProgramId, Serves};
use crate::uapi::{self, Errno};

impl FakeKernel {
    fn still_waits(&self, caller: &Caller) -> Result<(), Errno> {
        if self.world.borrow().waits(caller.id) { Ok(()) } else { Err(uapi::ESRCH) }
    }

    /// Ends a call, unless its caller is gone. Whoever answers a call that was answered is wrong.
    fn end(&self, caller: &Caller, reply: Reply) -> Result<(), Gone> {
        let mut world = self.world.borrow_mut();
        let state = world.calls.get(&caller.id).copied();
        match state.map(|state| state.reply) {
            Some(Reply::Interrupted) => Err(Gone),
            Some(_) => {
                world.end_call(caller.id, reply);
                Ok(())
            }
            None => panic!("a call that nobody made is answered: {caller:?}"),
        }
    }

    fn open(&self, found: Descriptor) -> File {
        File::new(self.world.clone(), found.cookie, found.fd)
    }
}

impl Program for FakeKernel {
    fn read_memory(&mut self, caller: &Caller, address: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if buf.is_empty() {
            return Ok(());
        }
        self.still_waits(caller)?;
        buf.copy_from_slice(self.world.borrow_mut().memory(caller.tid, address, buf.len())?);
        Ok(())
    }

    fn write_memory(&mut self, caller: &Caller, address: u64, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        if self.world.borrow().limits.interrupts_write {
            self.world.borrow_mut().interrupt(caller.tid);
        }
        if !self.world.borrow().may_be_written(caller.id) {
            return Err(uapi::ESRCH);
        }
        self.world.borrow_mut().memory(caller.tid, address, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn duplicate(&mut self, caller: &Caller, fd: i32) -> Result<File, Errno> {
        self.still_waits(caller)?;
        self.duplicate_of(caller.tid, fd)
    }

    fn duplicate_of(&mut self, tid: u32, fd: i32) -> Result<File, Errno> {
        let found = self.world.borrow().file(tid, fd)?;
        self.world.borrow().check_room()?;
        Ok(self.open(found))
    }

    fn dispose(&mut self, file: File) {
        self.world.borrow_mut().disposed += 1;
        drop(file);
    }

    fn answer(&mut self, caller: &Caller, result: Result<i64, Errno>) -> Result<(), Gone> {
        if self.world.borrow().limits.interrupts_answer {
            self.world.borrow_mut().interrupt(caller.tid);
        }
        self.end(caller, result.map_or_else(Reply::Fails, Reply::Is))
    }

    fn let_kernel(&mut self, caller: &Caller) {
        let _ = self.end(caller, Reply::Kernel);
    }

    fn inject(&mut self, caller: &Caller, file: &File, close_on_exec: bool) -> Result<i32, InjectError> {
        if self.world.borrow().limits.interrupts_inject {
            self.world.borrow_mut().interrupt(caller.tid);
        }
        self.still_waits(caller).map_err(|_| InjectError::Gone)?;
        let fd = self
            .world
            .borrow_mut()
            .install(caller.tid, file.cookie, file.fd.clone(), close_on_exec)
            .map_err(InjectError::Full)?;
        self.end(caller, Reply::Is(i64::from(fd))).map_err(|Gone| InjectError::Gone)?;
        Ok(fd)
    }

    fn give(&mut self, caller: &Caller, file: File, close_on_exec: bool) -> Result<i32, InjectError> {
        self.still_waits(caller).map_err(|_| InjectError::Gone)?;
        let mut world = self.world.borrow_mut();
        world.install(caller.tid, file.cookie, file.fd.clone(), close_on_exec).map_err(InjectError::Full)
    }

    fn replace(&mut self, caller: &Caller, fd: i32, file: &File) -> Result<(), InjectError> {
        self.still_waits(caller).map_err(|_| InjectError::Gone)?;
        let mut world = self.world.borrow_mut();
        let process = world.threads[&caller.tid].process;
        world.socks.get_mut(file.cookie).refs += 1;
        let table = &mut world.processes.get_mut(&process).unwrap().table;
        let old = table.get(&fd).cloned();
        let close_on_exec = old.as_ref().is_some_and(|old| old.close_on_exec);
        table.insert(fd, Descriptor { cookie: file.cookie, close_on_exec, fd: file.fd.clone() });
        if let Some(old) = old {
            world.release(old.cookie);
        }
        Ok(())
    }

    fn is_waiting(&mut self, caller: &Caller) -> bool {
        self.still_waits(caller).is_ok()
    }

    fn expect_leavers(&mut self, program: ProgramId) {
        self.world.borrow_mut().leavers.insert(program);
    }

    fn is_in_sandbox(&mut self, caller: &Caller) -> bool {
        let world = self.world.borrow();
        // Nobody looks where nobody can have left.
        !world.leavers.contains(&caller.program)
            || world.threads.get(&caller.tid).is_some_and(|thread| thread.in_sandbox)
    }

    fn has_privilege(&mut self, caller: &Caller, privilege: Privilege) -> bool {
        let world = self.world.borrow();
        world.threads.get(&caller.tid).is_some_and(|thread| thread.privileges.contains(&privilege))
    }

    fn name_of_foreign(&mut self, _file: &File, of_peer: bool) -> Result<Vec<u8>, Errno> {
        // Every socket that is not the core's is one of AF_UNIX without a name.
        if of_peer { Err(uapi::ENOTCONN) } else { Ok(vec![1, 0]) }
    }

    fn who_serves(&mut self, file: &File, _call: ForeignCall) -> Serves {
        match self.world.borrow().socks.get(file.cookie).kind {
            Kind::Foreign(connects) => connects,
            kind => panic!("a socket of kind {kind:?} is not the core's"),
        }
    }

    fn serve_foreign(&mut self, _file: &File, _call: ForeignCall, address: &[u8]) -> Result<(), Errno> {
        if address.len() < 2 { Err(uapi::EINVAL) } else { Ok(()) }
    }

    fn no_socket(&mut self, file: &File) -> Option<Errno> {
        (self.world.borrow().socks.get(file.cookie).kind == Kind::Other).then_some(uapi::ENOTSOCK)
    }

    fn process(&mut self, caller: &Caller) -> u32 {
        self.world.borrow().threads[&caller.tid].process
    }

    fn title(&mut self, tid: u32) -> Option<String> {
        let thread = self.world.borrow().threads.get(&tid)?.process;
        Some(format!("p[{thread}]"))
    }

    fn incarnation(&mut self, tid: u32) -> Option<u64> {
        self.world.borrow().threads.get(&tid).map(|thread| thread.incarnation)
    }
}
