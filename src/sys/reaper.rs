//! The program of a sandbox's first process: it reaps what ends, and is nothing else.
//!
//! A clone keeps its parent's memory: here what the supervisor knows of every other pod. Processes of a pod that share
//! their ids see its first process for as long as it lives, and with `CAP_SYS_PTRACE` into it. So that one becomes this
//! program, which has a page of instructions, a stack, and nothing to find.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use nix::fcntl::AtFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// What the process is called in lists of processes.
const NAME: &CStr = c"minik-init";

// Position-independent; calls only the kernel. It names itself (prctl PR_SET_NAME), takes the status of whatever has
// ended (wait4 with __WALL and WNOHANG) until there is none, and waits for the next SIGCHLD (rt_sigtimedwait), which is
// blocked and so stays pending between the two.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .rodata.minik_reaper, \"a\"",
    ".balign 8",
    "minik_reaper:",
    "    mov eax, 157",
    "    mov edi, 15",
    "    lea rsi, [rip + 4f]",
    "    syscall",
    "2:  mov eax, 61",
    "    mov rdi, -1",
    "    xor esi, esi",
    "    mov edx, 0x40000001",
    "    xor r10d, r10d",
    "    syscall",
    "    test rax, rax",
    "    jg 2b",
    "    mov eax, 128",
    "    lea rdi, [rip + 3f]",
    "    xor esi, esi",
    "    xor edx, edx",
    "    mov r10d, 8",
    "    syscall",
    "    jmp 2b",
    ".balign 8",
    "3:  .quad 0x10000",
    "4:  .asciz \"minik-init\"",
    "minik_reaper_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".pushsection .rodata.minik_reaper, \"a\"",
    ".balign 8",
    "minik_reaper:",
    "    mov x8, #167",
    "    mov x0, #15",
    "    adr x1, 4f",
    "    svc #0",
    "2:  mov x8, #260",
    "    mov x0, #-1",
    "    mov x1, #0",
    "    mov x2, #1",
    "    movk x2, #0x4000, lsl #16",
    "    mov x3, #0",
    "    svc #0",
    "    cmp x0, #0",
    "    b.gt 2b",
    "    mov x8, #137",
    "    adr x0, 3f",
    "    mov x1, #0",
    "    mov x2, #0",
    "    mov x3, #8",
    "    svc #0",
    "    b 2b",
    ".balign 8",
    "3:  .quad 0x10000",
    "4:  .asciz \"minik-init\"",
    "minik_reaper_end:",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "minik_reaper"]
    static BEGIN: u8;
    #[link_name = "minik_reaper_end"]
    static END: u8;
}

/// The machine of an ELF header (elf.h): EM_X86_64, EM_AARCH64.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
/// Where the program is mapped; anything that is page-aligned and not the forbidden first page.
const ADDRESS: u64 = 0x40_0000;
/// An ELF header and two program headers.
const HEADERS: u64 = 64 + 2 * 56;

fn instructions() -> &'static [u8] {
    let (begin, end) = (&raw const BEGIN, &raw const END);
    let length = end.addr() - begin.addr();
    // SAFETY: the two labels are the bounds of one run of constant bytes, made above.
    unsafe { std::slice::from_raw_parts(begin, length) }
}

/// The instructions as an executable file (System V ABI, "Object Files" and "Program Loading").
fn image() -> Vec<u8> {
    let instructions = instructions();
    let size = HEADERS + instructions.len() as u64;
    let mut image = Vec::new();
    // Class 64, little-endian, version 1.
    image.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, the machine, version 1.
    image.extend([2, MACHINE].map(u16::to_le_bytes).concat());
    image.extend(1_u32.to_le_bytes());
    // The entry, the place of the program headers, no sections, no flags.
    image.extend([ADDRESS + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    image.extend(0_u32.to_le_bytes());
    // Sizes and numbers: this header, two program headers, no sections.
    image.extend([64, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
    // PT_LOAD, PF_R | PF_X: the whole file; PT_GNU_STACK, PF_R | PF_W: a stack that is not executable.
    for (kind, flags, address, size, align) in
        [(1_u32, 5_u32, ADDRESS, size, 4096), (0x6474_e551, 6, 0, 0, 16)]
    {
        image.extend([kind, flags].map(u32::to_le_bytes).concat());
        image.extend([0, address, address, size, size, align].map(u64::to_le_bytes).concat());
    }
    image.extend_from_slice(instructions);
    image
}

/// The program, as a file in memory that nobody can read or change, only run.
#[derive(Debug)]
pub struct Reaper(OwnedFd);

impl Reaper {
    /// Makes the file.
    pub fn make() -> io::Result<Reaper> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 know no MFD_EXEC, and need none.
        let file = memfd_create(NAME, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(NAME, flags))?;
        let mut file = File::from(file);
        file.write_all(&image())?;
        // A program that its user may not read cannot be traced by the user's other processes either.
        file.set_permissions(Permissions::from_mode(0o111))?;
        fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
        Ok(Reaper(file.into()))
    }

    /// Becomes the program; returns only when that failed. As PID 1 of a namespace it gets no signal that it has no
    /// handler for, from inside not even `SIGKILL`.
    pub fn exec(&self) -> io::Error {
        let exec = || -> nix::Result<Infallible> {
            let mut children = SigSet::empty();
            children.add(Signal::SIGCHLD);
            children.thread_block()?;
            nix::unistd::execveat(self.0.as_fd(), c"", &[NAME], &[] as &[&CStr], AtFlags::AT_EMPTY_PATH)
        };
        match exec() {
            Err(error) => error.into(),
            Ok(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_sealed_and_not_to_be_read() {
        let reaper = Reaper::make().unwrap();
        let mode = File::from(reaper.0.try_clone().unwrap()).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o111);
        let mut file = File::from(reaper.0.try_clone().unwrap());
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        let size = file.metadata().unwrap().len();
        assert!(size > HEADERS && size < 4096, "{size}: one page");
    }
}
