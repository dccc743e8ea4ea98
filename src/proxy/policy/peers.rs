//! Address ranges of policies: blocks with holes, made into ranges that neither touch nor overlap. Pure.

use super::Range;
use crate::proxy::family::{Address, Range as _};

/// The addresses of a block without the exceptions; none for a block of the other family.
pub(super) fn block<A: Address>(cidr: &str, except: &[String]) -> Vec<Range<A>> {
    let ends = |text: &str| text.parse::<A::Range>().ok().map(|range| range.ends());
    let mut rest: Vec<Range<A>> = ends(cidr).into_iter().collect();
    for (first, last) in except.iter().filter_map(|text| ends(text)) {
        rest = rest
            .into_iter()
            .flat_map(|(from, to)| {
                let before = first.previous().map(|end| (from, end.min(to)));
                let after = last.next().map(|begin| (begin.max(from), to));
                [before, after]
            })
            .flatten()
            .filter(|(from, to)| from <= to)
            .collect();
    }
    rest
}

/// The same addresses in order, as few ranges as can be.
pub(super) fn merged<A: Address>(mut ranges: Vec<Range<A>>) -> Vec<Range<A>> {
    ranges.sort_unstable();
    let mut merged: Vec<Range<A>> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if before.1.next().is_none_or(|after| first <= after) => {
                before.1 = before.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn show<A: Address>(ranges: &[Range<A>]) -> Vec<String> {
        ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect()
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
            assert_eq!(show(&merged(block::<Ipv4Addr>(cidr, &except))), expected, "{cidr} {except:?}");
        }
        let except = ["fd00::/16".to_owned(), "10.0.0.0/8".to_owned()];
        let ranges = show(&merged(block::<Ipv6Addr>("fd00::/8", &except)));
        assert_eq!(ranges, ["fd01::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        assert_eq!(block::<Ipv6Addr>("10.0.0.0/8", &[]), []);
    }

    #[test]
    fn neighbours_become_one() {
        let range = |(first, last)| (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last));
        let ranges = [(7, 9), (0, 3), (4, 5), (8, 20)].map(range);
        assert_eq!(merged(ranges.into()), [(0, 5), (7, 20)].map(range));
        assert_eq!(merged(vec![range((5, u32::MAX)), Ipv4Addr::ALL]), [Ipv4Addr::ALL]);
    }
}
