//! What both daemons give up for good once they have what they need: privileges of programs that they could start,
//! capabilities, system calls.
//!
//! All of it holds for the calling thread and for those that it starts later; [`refuse_calls`] can also reach those
//! that run already. Nothing here can be taken back.
//!
//! System calls are refused by a list of what neither daemon ever has a use for, with EPERM. A list of what is
//! allowed would be tighter, but a new libc makes calls that the old one did not, and a storage daemon that dies of an
//! update loses data. What stays allowed is bounded by the missing capabilities and, in the server, by Landlock.

mod calls;

use std::collections::BTreeMap;
use std::io;

pub use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, apply_filter_all_threads, sock_filter,
};

/// Who gives up calls: the one difference is what it still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves storage.
    Server,
    /// Serves a mount, and unmounts it at the end.
    Mount,
}

/// Whose calls are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread's, and those of the threads that it starts later.
    Calling,
    /// Those of all threads of this process.
    All,
}

/// No program that is started from here on gets privileges from its file.
pub fn refuse_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Gives up all capabilities but those of `kept`, of which only what is there stays.
pub fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.permitted &= kept;
    sets.effective &= kept;
    // Ambient ones are always permitted and inheritable: they go along.
    sets.inheritable = CapabilitySet::empty();
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Refuses the calls that a daemon of this role has no use for. Needs [`refuse_new_privileges`] before.
///
/// An error of kind `Unsupported` is that of a machine whose calls are not known here, or of a kernel without seccomp.
pub fn refuse_calls(role: Role, threads: Threads) -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(unsupported)?;
    // Without clone3 libc uses clone, whose flags a filter can see. It takes no other answer for that.
    let unknown = [libc::SYS_clone3].map(|call| (call, Vec::new()));
    let refused = refused(role).map_err(io::Error::other)?;
    for (rules, errno) in [(BTreeMap::from(unknown), libc::ENOSYS), (refused, libc::EPERM)] {
        let program = compile(rules, errno.unsigned_abs(), arch).map_err(io::Error::other)?;
        let applied = match threads {
            Threads::Calling => apply_filter(&program),
            Threads::All => apply_filter_all_threads(&program),
        };
        applied.map_err(unsupported)?;
    }
    Ok(())
}

fn unsupported(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, error)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Each call and when it is refused; no rule: always.
fn refused(role: Role) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = calls::NEVER.iter().map(|call| (*call, Vec::new())).collect();
    // A new user namespace would come with all capabilities, within it.
    let new_user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let has_flag = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(new_user),
        new_user,
    )?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![has_flag])?]);
    if role == Role::Server {
        rules.extend(calls::NEVER_OF_SERVER.iter().map(|call| (*call, Vec::new())));
        let others = calls::SERVER_FAMILIES.map(|family| {
            let family = u64::from(family.unsigned_abs());
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
        });
        let others = others.into_iter().collect::<Result<_, _>>()?;
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(others)?]);
    }
    Ok(rules)
}

fn compile(rules: Rules, errno: u32, arch: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let action = SeccompAction::Errno(errno);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action.clone(), arch)?;
    let program = BpfProgram::try_from(filter)?;
    Ok(match arch {
        TargetArch::x86_64 => without_x32(action, program),
        TargetArch::aarch64 | TargetArch::riscv64 => program,
    })
}

/// Every call of x86-64 has a second number, that of its x32 interface, which a list of numbers would miss.
fn without_x32(action: SeccompAction, program: BpfProgram) -> BpfProgram {
    /// linux/bpf_common.h: load a word from the data, jump if not below, return.
    const LOAD: u16 = 0x20;
    const JUMP_GE: u16 = 0x35;
    const RETURN: u16 = 0x06;
    /// __X32_SYSCALL_BIT of asm/unistd.h.
    const X32: u32 = 0x4000_0000;
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    // The number of the call is the first word of the data.
    let mut all = vec![
        step(LOAD, 0, 0),
        step(JUMP_GE, 1, X32),
        step(RETURN, 0, u32::from(action)),
    ];
    all.extend(program);
    all
}

#[cfg(test)]
mod tests;
