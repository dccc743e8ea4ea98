//! Which devices a cgroup v2 group may use: a small BPF program attached to its directory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What may be done with a device, beside making its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A device that may be used: kind, numbers (`None` is any), and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Block device rather than character device.
    pub block: bool,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// How.
    pub access: Access,
}

const fn character(major: u32, minor: Option<u32>) -> Rule {
    Rule { block: false, major: Some(major), minor, access: Access::ReadWrite }
}

/// What every container may use: making nodes of any kind (which opens none), the harmless memory devices, and
/// terminals (numbers from the kernel's devices.txt).
pub const DEFAULT: [Rule; 10] = [
    Rule { block: false, major: None, minor: None, access: Access::None },
    Rule { block: true, major: None, minor: None, access: Access::None },
    character(1, Some(3)), // null
    character(1, Some(5)), // zero
    character(1, Some(7)), // full
    character(1, Some(8)), // random
    character(1, Some(9)), // urandom
    character(5, Some(0)), // tty
    character(5, Some(2)), // ptmx
    character(136, None),  // pts/*
];

impl Rule {
    /// As cgroup v1's `devices.allow` wants it.
    pub fn v1_line(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        let access = match self.access {
            Access::None => "m",
            Access::Read => "rm",
            Access::ReadWrite => "rwm",
        };
        format!("{kind} {}:{} {access}", number(self.major), number(self.minor))
    }
}

/// One instruction of the kernel's BPF machine (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// From linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const COPY: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_IF_ANY: u8 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
const PROG_LOAD: i64 = 5;
const PROG_ATTACH: i64 = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const DEVICE_BLOCK: i32 = 1; // BPF_DEVCG_DEV_BLOCK
const DEVICE_CHARACTER: i32 = 2; // BPF_DEVCG_DEV_CHAR
const ACCESS_READ: i32 = 2; // BPF_DEVCG_ACC_READ
const ACCESS_WRITE: i32 = 4; // BPF_DEVCG_ACC_WRITE

/// A loaded program, to be attached to any number of groups.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Allows nothing but the devices of `rules`. Loading takes the kernel 0.2 ms, so do it once.
    pub fn load(rules: &[Rule]) -> io::Result<Program> {
        load(&compile(rules)).map(Program)
    }
}

/// Holds the processes of a cgroup v2 directory to a program.
pub fn restrict(cgroup: BorrowedFd<'_>, program: &Program) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.0.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: `attach` is the prefix of bpf_attr that BPF_PROG_ATTACH reads, and its size is told.
    match unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
    }
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
    };
    // SAFETY: `load` is the prefix of bpf_attr that BPF_PROG_LOAD reads; what it points to lives across the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// For each rule: compare, jump to the next rule on a mismatch, else return 1; at the end return 0.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let op = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    };
    // struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | kind), major, minor }, pointed to by r1.
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(COPY, 3, 2, 0, 0),
        op(AND, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.block { DEVICE_BLOCK } else { DEVICE_CHARACTER };
        let mut tests = vec![(JUMP_NOT_EQUAL, 2, kind)];
        tests.extend(rule.major.map(|major| (JUMP_NOT_EQUAL, 4, major as i32)));
        tests.extend(rule.minor.map(|minor| (JUMP_NOT_EQUAL, 5, minor as i32)));
        match rule.access {
            Access::None => tests.push((JUMP_IF_ANY, 3, ACCESS_READ | ACCESS_WRITE)),
            Access::Read => tests.push((JUMP_IF_ANY, 3, ACCESS_WRITE)),
            Access::ReadWrite => {}
        }
        let length = tests.len() as i16;
        for (index, (jump, register, value)) in (0..).zip(tests) {
            // Over the remaining tests and the two instructions of "return 1".
            program.push(op(jump, register, 0, length - index + 1, value));
        }
        program.extend([op(MOVE, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    }
    program.extend([op(MOVE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_jumps_to_the_next_rule() {
        let program = compile(&DEFAULT[2..4]);
        let (first, second) = (6, 6 + 3 + 2);
        for (index, jump) in program.iter().enumerate().skip(first).take(3) {
            assert_eq!(index as i16 + 1 + jump.offset, second as i16);
        }
        assert_eq!(program.last().unwrap().code, EXIT);
    }

    #[test]
    fn v1_lines() {
        assert_eq!(DEFAULT[0].v1_line(), "c *:* m");
        assert_eq!(DEFAULT[2].v1_line(), "c 1:3 rwm");
        assert_eq!(DEFAULT[9].v1_line(), "c 136:* rwm");
        let disk = Rule { block: true, major: Some(7), minor: Some(1), access: Access::Read };
        assert_eq!(disk.v1_line(), "b 7:1 rm");
    }

    #[test]
    fn processes_are_held_to_a_program() {
        use std::os::fd::AsFd;

        use crate::sys::mount::{self, Attributes};

        if !rustix::process::geteuid().is_root() {
            tracing::warn!("skipped: needs root");
            return;
        }
        // Zeros may be read, and nothing but null may be written.
        let zero = Rule { access: Access::Read, ..character(1, Some(5)) };
        let program = Program::load(&[DEFAULT[0], character(1, Some(3)), zero]).unwrap();
        // Without any controller, there is such a hierarchy beside those of version 1 too.
        let place = tempfile::tempdir().unwrap();
        let tree = mount::filesystem("cgroup2", &[], Attributes::default()).unwrap();
        mount::attach(tree.as_fd(), std::fs::File::open(place.path()).unwrap().as_fd()).unwrap();
        let group = place.path().join(format!("minik-device-test-{}", std::process::id()));
        let script = "echo $$ > $0/cgroup.procs; head -c 1 /dev/zero > /dev/null && echo read; \
            (echo > /dev/zero) 2> /dev/null || echo kept; head -c 1 /dev/full > /dev/null 2>&1 || echo refused";
        let seen = (|| {
            std::fs::create_dir(&group)?;
            restrict(std::fs::File::open(&group)?.as_fd(), &program)?;
            std::process::Command::new("sh").args(["-c", script]).arg(&group).output()
        })();
        let removed = std::fs::remove_dir(&group);
        mount::detach(place.path()).unwrap();
        assert_eq!(String::from_utf8_lossy(&seen.unwrap().stdout), "read\nkept\nrefused\n");
        removed.unwrap();
    }
}
