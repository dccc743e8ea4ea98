//! Moments and spans of time.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::{no_overload, row};
use crate::api::cel::declared::{Function, one};
use crate::api::cel::{Fault, Outcome, Val};

const OF_MOMENTS: &[&str] = &["timestamp.() int", "timestamp.(string) int"];
const OF_BOTH: &[&str] = &["timestamp.() int", "timestamp.(string) int", "duration.() int"];

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("getFullYear", OF_MOMENTS, one, |a| of_moment(a, |at| at.year().into())),
    row("getMonth", OF_MOMENTS, one, |a| of_moment(a, |at| i64::from(at.month()) - 1)),
    row("getDayOfYear", OF_MOMENTS, one, |a| of_moment(a, |at| i64::from(at.day_of_year()) - 1)),
    row("getDayOfMonth", OF_MOMENTS, one, |a| of_moment(a, |at| i64::from(at.day()) - 1)),
    row("getDate", OF_MOMENTS, one, |a| of_moment(a, |at| at.day().into())),
    row("getDayOfWeek", OF_MOMENTS, one, |a| of_moment(a, |at| at.weekday().to_sunday_zero_offset().into())),
    row("getHours", OF_BOTH, one, |a| of_either(a, |at| at.hour().into(), 3_600_000_000_000)),
    row("getMinutes", OF_BOTH, one, |a| of_either(a, |at| at.minute().into(), 60_000_000_000)),
    row("getSeconds", OF_BOTH, one, |a| of_either(a, |at| at.second().into(), 1_000_000_000)),
    row("getMilliseconds", OF_BOTH, one, |a| match a {
        // Of a span it is the part below the second.
        [Val::Duration(nanos)] => Ok(Val::Int(nanos / 1_000_000 % 1000)),
        _ => of_moment(a, |at| at.millisecond().into()),
    }),
];

fn of_moment(arguments: &[Val], part: fn(&Zoned) -> i64) -> Outcome {
    let (at, zone) = match arguments {
        [Val::Timestamp(at)] => (at, TimeZone::UTC),
        [Val::Timestamp(at), Val::String(name)] => (at, zone(name)?),
        _ => return no_overload(),
    };
    Ok(Val::Int(part(&at.to_zoned(zone))))
}

fn of_either(arguments: &[Val], part: fn(&Zoned) -> i64, unit: i64) -> Outcome {
    match arguments {
        [Val::Duration(nanos)] => Ok(Val::Int(nanos / unit)),
        _ => of_moment(arguments, part),
    }
}

/// A zone by its name (`Europe/Paris`) or its distance from UTC (`-05:30`).
fn zone(name: &str) -> Result<TimeZone, Fault> {
    let unknown = || Fault::new(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return match name {
            "" | "UTC" => Ok(TimeZone::UTC),
            name => TimeZone::get(name).map_err(|_| unknown()),
        };
    };
    let sign = if hours.starts_with('-') { -1 } else { 1 };
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    let offset = Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map_err(|_| unknown())?;
    Ok(TimeZone::fixed(offset))
}

/// A `date-time` or a `date` of a document.
pub fn parse_moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let date: jiff::civil::Date = text.parse().ok()?;
        Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

/// A span as Go reads it, in nanoseconds: `1h30m`, `-1.5s`, `100ms`.
pub fn parse_span(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            nanos += i128::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?) * scale;
        }
        rest = next;
    }
    i64::try_from(if negative { -nanos } else { nanos }).ok()
}

/// A span as CEL writes it: in seconds.
pub fn show_span(nanos: i64) -> String {
    let (whole, part) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
    let sign = if nanos < 0 && whole == 0 { "-" } else { "" };
    match part {
        0 => format!("{whole}s"),
        part => format!("{sign}{whole}.{}s", format!("{part:09}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_go_s() {
        for (text, nanos) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("100ms", Some(100_000_000)),
            ("0", Some(0)),
            ("1", None),
            ("", None),
            ("1d", None),
            ("s", None),
            ("9999999999999h", None),
        ] {
            assert_eq!(parse_span(text), nanos, "{text}");
        }
        for (nanos, text) in [(1_500_000_000, "1.5s"), (-500_000_000, "-0.5s"), (60_000_000_000, "60s")] {
            assert_eq!(show_span(nanos), text);
        }
    }
}
