//! From a policy (what happens to which call) to a BPF program.
//!
//! Call numbers are joined into ranges with the same fate, and the ranges are searched by halving: some 80 ranges
//! instead of 400 comparisons in a row. That matters at installation, where the kernel runs the program once for each
//! call number to learn which are always allowed: 0.05 ms instead of 1 ms for each container.

use std::collections::BTreeMap;

// Operation codes of classic BPF (linux/bpf_common.h).
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in struct seccomp_data (linux/seccomp.h): nr, arch, instruction pointer, six 64-bit arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// From this number on there are only the calls of x32, which come under x86-64's name; minik has no images of that
/// architecture, and most kernels no such calls. A filter must not let them pass as unknown.
const BEYOND: u32 = 0x4000_0000;

/// What the kernel does with a call: a `SECCOMP_RET_*` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(pub u32);

impl Action {
    /// Lets it through.
    pub const ALLOW: Action = Action(libc::SECCOMP_RET_ALLOW);

    /// Answers with an error.
    pub fn errno(errno: i32) -> Action {
        Action(libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA))
    }
}

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less, unsigned.
    Less,
    /// Less or equal, unsigned.
    AtMost,
    /// Greater, unsigned.
    Greater,
    /// Greater or equal, unsigned.
    AtLeast,
    /// Equal after a bitwise and with this mask.
    MaskedEqual(u64),
}

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// 0..=5.
    pub argument: u8,
    /// How.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
    /// The call takes an `int`: the upper half is not looked at, by the kernel's call neither.
    pub narrow: bool,
}

/// What happens when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// None is always.
    pub conditions: Vec<Condition>,
    /// This.
    pub action: Action,
}

impl Rule {
    /// Without conditions.
    pub fn always(action: Action) -> Rule {
        Rule { conditions: vec![], action }
    }
}

/// What happens to each call: the first rule that fits decides, then the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For calls without a rule that fits.
    pub default: Action,
    /// By number.
    pub calls: BTreeMap<u32, Vec<Rule>>,
}

/// A part of the numbers, from its first on to that of the next part.
struct Range<'a> {
    first: u32,
    fate: Fate<'a>,
}

#[derive(PartialEq)]
enum Fate<'a> {
    Always(Action),
    ByRules(&'a [Rule]),
}

/// The program of a policy for each architecture (`AUDIT_ARCH_*`); a call in the way of any other ends the process.
/// `None` when it would be longer than the kernel takes.
pub fn compile(policies: &[(u32, Policy)]) -> Option<Vec<libc::sock_filter>> {
    let mut program = vec![operation(LOAD, ARCHITECTURE)];
    for (architecture, policy) in policies {
        let mut part = vec![operation(LOAD, NUMBER)];
        part.extend(search(&ranges(policy), policy.default));
        // A conditional jump reaches 255 operations only, an unconditional one everything.
        program.push(branch(JUMP_EQUAL, *architecture, 1, 0));
        program.push(operation(JUMP, part.len() as u32));
        program.extend(part);
    }
    program.push(operation(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    (program.len() <= LONGEST).then_some(program)
}

fn ranges(policy: &Policy) -> Vec<Range<'_>> {
    let mut ranges = vec![Range { first: 0, fate: Fate::Always(policy.default) }];
    let mut next = 0;
    for (number, rules) in &policy.calls {
        if *number > next {
            push(&mut ranges, next, Fate::Always(policy.default));
        }
        let fate = match rules.first() {
            None => Fate::Always(policy.default),
            Some(rule) if rule.conditions.is_empty() => Fate::Always(rule.action),
            Some(_) => Fate::ByRules(rules),
        };
        push(&mut ranges, *number, fate);
        next = number + 1;
    }
    push(&mut ranges, next, Fate::Always(policy.default));
    push(&mut ranges, BEYOND, Fate::Always(Action::errno(libc::ENOSYS)));
    ranges
}

/// Begins a range, unless the one before goes on.
fn push<'a>(ranges: &mut Vec<Range<'a>>, first: u32, fate: Fate<'a>) {
    match ranges.last_mut() {
        Some(last) if last.fate == fate => {}
        Some(last) if last.first == first => last.fate = fate,
        _ => ranges.push(Range { first, fate }),
    }
}

/// Finds the range of the loaded number: "at least the middle's first? there : here", halves behind each other.
fn search(ranges: &[Range<'_>], default: Action) -> Vec<libc::sock_filter> {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    match (left, right) {
        ([], [range]) => match range.fate {
            Fate::Always(action) => vec![operation(RETURN, action.0)],
            Fate::ByRules(rules) => apply(rules, default),
        },
        (left, [middle, ..]) => {
            let (left, right) = (search(left, default), search(right, default));
            // A conditional jump reaches 255 operations only, an unconditional one everything.
            let mut program =
                vec![branch(JUMP_AT_LEAST, middle.first, 0, 1), operation(JUMP, left.len() as u32)];
            program.extend(left);
            program.extend(right);
            program
        }
        _ => vec![operation(RETURN, default.0)],
    }
}

fn apply(rules: &[Rule], default: Action) -> Vec<libc::sock_filter> {
    let mut program: Vec<libc::sock_filter> = rules.iter().flat_map(rule).collect();
    program.push(operation(RETURN, default.0));
    program
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum Target {
    /// With the next operation.
    Next,
    /// The condition holds.
    Holds,
    /// The condition fails, and with it the rule.
    Fails,
}

/// An operation whose jumps are not placed yet.
type Unplaced = (u16, u32, Target, Target);

fn rule(rule: &Rule) -> Vec<libc::sock_filter> {
    let tests: Vec<Vec<Unplaced>> = rule.conditions.iter().map(test).collect();
    let length: usize = tests.iter().map(Vec::len).sum();
    let mut program = Vec::with_capacity(length + 1);
    let mut end = 0;
    for test in tests {
        end += test.len();
        for (code, value, yes, no) in test {
            let here = program.len();
            // Six conditions of eight operations at most: always within reach.
            let distance = |target| match target {
                Target::Next => 0,
                Target::Holds => (end - here - 1) as u8,
                Target::Fails => (length - here) as u8,
            };
            program.push(branch(code, value, distance(yes), distance(no)));
        }
    }
    program.push(operation(RETURN, rule.action.0));
    program
}

fn test(condition: &Condition) -> Vec<Unplaced> {
    use Target::{Fails, Holds, Next};
    let offset = ARGUMENTS + 8 * u32::from(condition.argument);
    let (low_at, high_at) =
        if cfg!(target_endian = "little") { (offset, offset + 4) } else { (offset + 4, offset) };
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    let load = |at| (LOAD, at, Next, Next);
    // Decides by the upper half, or goes on with the lower one when the upper halves are equal.
    let with_high = |mut upper: Vec<Unplaced>, lower: Vec<Unplaced>| {
        if condition.narrow {
            return lower;
        }
        upper.extend(lower);
        upper
    };
    match condition.comparison {
        Comparison::Equal => with_high(
            vec![load(high_at), (JUMP_EQUAL, high, Next, Fails)],
            vec![load(low_at), (JUMP_EQUAL, low, Holds, Fails)],
        ),
        Comparison::NotEqual => with_high(
            vec![load(high_at), (JUMP_EQUAL, high, Next, Holds)],
            vec![load(low_at), (JUMP_EQUAL, low, Fails, Holds)],
        ),
        Comparison::MaskedEqual(mask) => with_high(
            vec![load(high_at), (AND, (mask >> 32) as u32, Next, Next), (JUMP_EQUAL, high, Next, Fails)],
            vec![load(low_at), (AND, mask as u32, Next, Next), (JUMP_EQUAL, low, Holds, Fails)],
        ),
        comparison => {
            let (code, yes, no) = match comparison {
                Comparison::Greater => (JUMP_GREATER, Holds, Fails),
                Comparison::AtMost => (JUMP_GREATER, Fails, Holds),
                Comparison::Less => (JUMP_AT_LEAST, Fails, Holds),
                _ => (JUMP_AT_LEAST, Holds, Fails),
            };
            with_high(
                vec![load(high_at), (JUMP_GREATER, high, yes, Next), (JUMP_EQUAL, high, Next, no)],
                vec![load(low_at), (code, low, yes, no)],
            )
        }
    }
}

fn operation(code: u16, value: u32) -> libc::sock_filter {
    branch(code, value, 0, 0)
}

fn branch(code: u16, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: yes, jf: no, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does.
    fn run(program: &[libc::sock_filter], number: u32, arguments: [u64; 6]) -> u32 {
        run_as(program, 7, number, arguments)
    }

    fn run_as(program: &[libc::sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number.to_ne_bytes(), architecture.to_ne_bytes(), [0; 4], [0; 4]].concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |condition| if condition { jt as usize } else { jf as usize };
            match code {
                LOAD => accumulator = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => at += jump(accumulator == k),
                JUMP_GREATER => at += jump(accumulator > k),
                JUMP_AT_LEAST => at += jump(accumulator >= k),
                RETURN => return k,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    #[test]
    fn every_number_finds_its_action() {
        let action = |number: u32| Action::errno((number % 5) as i32);
        let calls = (0..600).filter(|n| n % 7 != 3).map(|n| (n, vec![Rule::always(action(n / 9))])).collect();
        let policy = Policy { default: Action::errno(99), calls };
        let program = compile(&[(7, policy.clone())]).unwrap();
        for number in [u32::MAX, 0x4000_0001] {
            assert_eq!(run(&program, number, [0; 6]), Action::errno(libc::ENOSYS).0, "{number}");
        }
        for number in (0..700).chain([0x3fff_ffff]) {
            let expected = if number < 600 && number % 7 != 3 { action(number / 9) } else { policy.default };
            assert_eq!(run(&program, number, [0; 6]), expected.0, "{number}");
        }
        let empty = compile(&[(7, Policy { default: Action::ALLOW, calls: BTreeMap::new() })]).unwrap();
        assert_eq!(run(&empty, 5, [0; 6]), Action::ALLOW.0);
    }

    #[test]
    fn each_architecture_has_its_own_numbers() {
        let policy = |offset: u32| Policy {
            default: Action::errno(1),
            calls: (0..400).step_by(2).map(|n| (n + offset, vec![Rule::always(Action::ALLOW)])).collect(),
        };
        let program = compile(&[(7, policy(0)), (8, policy(1))]).unwrap();
        for number in 0..400 {
            let (even, odd) = (run_as(&program, 7, number, [0; 6]), run_as(&program, 8, number, [0; 6]));
            assert_eq!((even == Action::ALLOW.0, odd == Action::ALLOW.0), (number % 2 == 0, number % 2 == 1));
            assert_eq!(run_as(&program, 9, number, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    #[test]
    fn comparisons_are_of_64_bits() {
        use Comparison::{AtLeast, AtMost, Equal, Greater, Less, MaskedEqual, NotEqual};
        let samples = [0, 1, 5, 6, 7, 0x1_0000_0005, 0x1_0000_0006, 0x1_0000_0007, 0x2_0000_0000, u64::MAX];
        for value in samples {
            for (comparison, holds) in [
                (Equal, (|a, v| a == v) as fn(u64, u64) -> bool),
                (NotEqual, |a, v| a != v),
                (Less, |a, v| a < v),
                (AtMost, |a, v| a <= v),
                (Greater, |a, v| a > v),
                (AtLeast, |a, v| a >= v),
                (MaskedEqual(0x1_0000_0004), |a, v| a & 0x1_0000_0004 == v),
            ] {
                let condition = Condition { argument: 2, comparison, value, narrow: false };
                let other = Condition { argument: 5, comparison: Equal, value: 1, narrow: false };
                let rule = Rule { conditions: vec![condition, other], action: Action::ALLOW };
                let policy = Policy { default: Action::errno(1), calls: [(3, vec![rule])].into() };
                let program = compile(&[(7, policy.clone())]).unwrap();
                for argument in samples {
                    for last in [0, 1] {
                        let allowed = run(&program, 3, [9, 9, argument, 9, 9, last]) == Action::ALLOW.0;
                        let expected = holds(argument, value) && last == 1;
                        assert_eq!(allowed, expected, "{argument:#x} {comparison:?} {value:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn narrow_conditions_ignore_the_upper_half() {
        let condition = Condition { argument: 0, comparison: Comparison::NotEqual, value: 40, narrow: true };
        let rule = Rule { conditions: vec![condition], action: Action::ALLOW };
        let program =
            compile(&[(7, Policy { default: Action::errno(1), calls: [(41, vec![rule])].into() })]).unwrap();
        assert_eq!(run(&program, 41, [0x1_0000_0028, 0, 0, 0, 0, 0]), Action::errno(1).0);
        assert_eq!(run(&program, 41, [2, 0, 0, 0, 0, 0]), Action::ALLOW.0);
    }
}
