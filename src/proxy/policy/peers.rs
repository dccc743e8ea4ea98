//! Address ranges of policies: blocks with holes, made into ranges that neither touch nor overlap. Pure.

use std::net::Ipv4Addr;

use super::Range;
use crate::network::Cidr;

/// Every address.
pub(super) const EVERYTHING: Range = (0, u32::MAX);

/// The addresses of a block without the exceptions; none for a block that is not one of IPv4.
pub(super) fn block(cidr: &str, except: &[String]) -> Vec<Range> {
    let Ok(cidr) = cidr.parse::<Cidr>() else { return Vec::new() };
    let holes = except.iter().filter_map(|text| text.parse::<Cidr>().ok()).map(range);
    let mut rest = vec![range(cidr)];
    for (first, last) in holes {
        rest = rest
            .into_iter()
            .flat_map(|(from, to)| {
                let before = first.checked_sub(1).map(|end| (from, end.min(to)));
                let after = last.checked_add(1).map(|begin| (begin.max(from), to));
                [before, after]
            })
            .flatten()
            .filter(|(from, to)| from <= to)
            .collect();
    }
    rest
}

/// The same addresses in order, as few ranges as can be.
pub(super) fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn range(cidr: Cidr) -> Range {
    let number = |n| Ipv4Addr::to_bits(cidr.nth(n));
    (number(0), number(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(ranges: &[Range]) -> Vec<String> {
        let text = Ipv4Addr::from_bits;
        ranges.iter().map(|(first, last)| format!("{}-{}", text(*first), text(*last))).collect()
    }

    #[test]
    fn exceptions_are_holes() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            ("10.0.0.0/24", &[], &["10.0.0.0-10.0.0.255"]),
            ("10.0.0.7/32", &[], &["10.0.0.7-10.0.0.7"]),
            (
                "0.0.0.0/0",
                &["10.0.0.0/8", "192.168.0.0/16"],
                &["0.0.0.0-9.255.255.255", "11.0.0.0-192.167.255.255", "192.169.0.0-255.255.255.255"],
            ),
            ("10.0.0.0/24", &["10.0.0.0/25"], &["10.0.0.128-10.0.0.255"]),
            ("10.0.0.0/24", &["10.0.0.128/25", "10.0.0.0/25"], &[]),
            ("0.0.0.0/0", &["0.0.0.0/1", "255.255.255.255/32"], &["128.0.0.0-255.255.255.254"]),
            ("fd00::/8", &["fd00::/16"], &[]),
        ];
        for (cidr, except, expected) in cases {
            let except: Vec<String> = except.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(show(&merged(block(cidr, &except))), expected, "{cidr} {except:?}");
        }
    }

    #[test]
    fn neighbours_become_one() {
        let number = |n: u8| u32::from(n);
        let ranges = vec![(number(7), number(9)), (0, number(3)), (number(4), number(5)), (number(8), 20)];
        assert_eq!(merged(ranges), [(0, 5), (7, 20)]);
        assert_eq!(merged(vec![(5, u32::MAX), EVERYTHING]), [EVERYTHING]);
    }
}
