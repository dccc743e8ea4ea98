//! The schedules of cron jobs: five fields, or a word like `@daily`.
//!
//! Grammar, messages and the reading of times are those of github.com/robfig/cron v3, which Kubernetes reads schedules
//! with.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Unit, Zoned};

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that all fields allow.
    Fields(Fields),
    /// Again and again after so many seconds.
    Every(u64),
}

/// What each field of a schedule allows, a bit for each value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// 0 to 59.
    pub minutes: u64,
    /// 0 to 23.
    pub hours: u64,
    /// 1 to 31.
    pub days: u64,
    /// 1 to 12.
    pub months: u64,
    /// 0, Sunday, to 6.
    pub weekdays: u64,
    /// Whether the days of the month are all allowed by a star: then the weekdays alone decide, and the other way
    /// round; a day that either field names is allowed where both do.
    pub any_day: bool,
    /// The same of the weekdays.
    pub any_weekday: bool,
}

/// The values of one field.
struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule; a time zone in front (`TZ=Europe/Paris 0 8 * * *`) must be one, and is otherwise the caller's to
    /// refuse.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let mut rest = text;
        if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
            let (zone, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
            if let Err(error) = jiff::tz::TimeZone::get(zone) {
                return Err(format!("provided bad location {zone}: {error}"));
            }
            rest = after.trim();
        }
        if rest.starts_with('@') {
            return descriptor(rest);
        }
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            let shown = fields.join(" ");
            return Err(format!("expected exactly 5 fields, found {}: [{shown}]", fields.len()));
        };
        let (minutes, _) = field(minutes, &MINUTES)?;
        let (hours, _) = field(hours, &HOURS)?;
        let (days, any_day) = field(days, &DAYS)?;
        let (months, _) = field(months, &MONTHS)?;
        let (weekdays, any_weekday) = field(weekdays, &WEEKDAYS)?;
        Ok(Schedule::Fields(Fields { minutes, hours, days, months, weekdays, any_day, any_weekday }))
    }
}

/// How many years ahead a time is looked for before there is none.
const YEARS: i16 = 5;

impl Schedule {
    /// The time zone that stands in front of a schedule.
    pub fn zone(text: &str) -> Option<TimeZone> {
        let zone = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="))?;
        TimeZone::get(zone.split(' ').next()?).ok()
    }

    /// The first time after another; none when the fields never meet, as on 31 February.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match self {
            Schedule::Every(seconds) => {
                let wait = SignedDuration::from_secs(i64::try_from(*seconds).ok()?);
                whole.checked_add(wait).ok()
            }
            Schedule::Fields(fields) => fields.next(whole.to_zoned(zone.clone())),
        }
    }
}

impl Fields {
    /// Steps by the largest unit that does not fit. Hours and minutes are those that pass, not those of the clock: what
    /// a change to summer time leaves out is left out, and what comes twice is there twice.
    fn next(&self, after: Zoned) -> Option<Timestamp> {
        let minute = |time: Zoned| {
            time.round(jiff::ZonedRound::new().smallest(Unit::Minute).mode(jiff::RoundMode::Trunc)).ok()
        };
        let last_year = after.year() + YEARS;
        let mut time = minute(after.checked_add(SignedDuration::from_mins(1)).ok()?)?;
        while time.year() <= last_year {
            let allows = |bits: u64, value: i8| bits & 1 << value != 0;
            time = if !allows(self.months, time.month()) {
                let first = time.first_of_month().ok()?.start_of_day().ok()?;
                first.checked_add(jiff::Span::new().months(1)).ok()?.start_of_day().ok()?
            } else if !self.allows_day(&time) {
                time.tomorrow().ok()?.start_of_day().ok()?
            } else if !allows(self.hours, time.hour()) {
                let rest = SignedDuration::from_mins(60 - i64::from(time.minute()));
                time.checked_add(rest).ok()?
            } else if !allows(self.minutes, time.minute()) {
                time.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(time.timestamp());
            };
        }
        None
    }

    fn allows_day(&self, time: &Zoned) -> bool {
        let day = self.days & 1 << time.day() != 0;
        let weekday = self.weekdays & 1 << time.weekday().to_sunday_zero_offset() != 0;
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }
}

fn descriptor(word: &str) -> Result<Schedule, String> {
    let fields = match word {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(duration) = word.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {word}"));
            };
            let seconds = seconds(duration).map_err(|e| format!("failed to parse duration {word}: {e}"))?;
            // Nothing happens more often than every second.
            return Ok(Schedule::Every(seconds.max(1)));
        }
    };
    Schedule::parse(fields)
}

/// The values that a field allows, and whether it does so by a star.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let mut all = 0;
    let mut any = false;
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (bits, star) = self::range(range, bounds)?;
        all |= bits;
        any |= star;
    }
    Ok((all, any))
}

fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let mut star = matches!(ends[0], "*" | "?");
    let (start, mut end) = match ends.as_slice() {
        _ if star => (bounds.min, bounds.max),
        [one] => number(one, bounds).map(|one| (one, one))?,
        [low, high] => (number(low, bounds)?, number(high, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step, &Bounds { names: &[], ..MINUTES })?;
            // A single number with a step goes on to the end.
            if ends.len() == 1 {
                end = bounds.max;
            }
            star &= step <= 1;
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok(((start..=end).step_by(step).fold(0, |bits, value| bits | 1 << value), star))
}

fn number(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let named = bounds.names.iter().position(|name| text.eq_ignore_ascii_case(name));
    if let Some(position) = named {
        return Ok(bounds.min + position as u64);
    }
    let failed =
        |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}");
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(failed("invalid syntax"));
    }
    let number: i64 = text.parse().map_err(|_| failed("value out of range"))?;
    u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

/// The whole seconds of a duration of Go: `1h30m`, `1.5s`.
fn seconds(text: &str) -> Result<u64, String> {
    const UNITS: &[(&str, f64)] =
        &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (amount, after) = rest.split_at(end);
        let amount: f64 = amount.parse().map_err(|_| invalid())?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, factor) = known.ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        total += amount * factor;
        rest = after;
    }
    // A negative duration is the shortest one.
    Ok(if text.starts_with('-') { 0 } else { total as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        match Schedule::parse(text) {
            Ok(Schedule::Fields(fields)) => fields,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn fields_allow_what_they_name() {
        let every = fields("*/15 0-2,5 1 jan,DEC mon-fri");
        assert_eq!(every.minutes, 1 | 1 << 15 | 1 << 30 | 1 << 45);
        assert_eq!(every.hours, 0b100_111);
        assert_eq!((every.days, every.months, every.weekdays), (0b10, 1 << 1 | 1 << 12, 0b11_1110));
        assert!(!every.any_day && !every.any_weekday);
        assert_eq!(fields("50/5 * ? * *").minutes, 1 << 50 | 1 << 55);
        assert!(fields("* * ? * 1").any_day);
        assert_eq!(fields("@daily"), fields("0 0 * * *"));
        assert_eq!(fields("TZ=Europe/Paris 0 8 * * *"), fields("0 8 * * *"));
        assert_eq!(Schedule::parse("@every 1h30m"), Ok(Schedule::Every(5400)));
        assert_eq!(Schedule::parse("@every 10ms"), Ok(Schedule::Every(1)));
    }

    #[test]
    fn times_of_schedules() {
        let paris = TimeZone::get("Europe/Paris").unwrap();
        let own = jiff::tz::TimeZoneDatabase::bundled();
        assert!(own.get("Europe/Paris").is_ok(), "the host need not know any zone");
        for (text, zone, after, expected) in [
            ("*/15 * * * *", &TimeZone::UTC, "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("*/15 * * * *", &TimeZone::UTC, "2026-01-01T00:14:59.9Z", "2026-01-01T00:15:00Z"),
            ("0 8 * * mon-fri", &TimeZone::UTC, "2026-01-02T08:00:00Z", "2026-01-05T08:00:00Z"),
            // A day that either of two fields names.
            ("0 0 13 * fri", &TimeZone::UTC, "2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * fri", &TimeZone::UTC, "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 29 2 *", &TimeZone::UTC, "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("30 6 * * *", &paris, "2026-07-01T00:00:00Z", "2026-07-01T04:30:00Z"),
            // The hour that the change to summer time leaves out, and the one that comes twice in autumn.
            ("30 2 * * *", &paris, "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            ("30 2 * * *", &paris, "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", &paris, "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("@every 90s", &TimeZone::UTC, "2026-01-01T00:00:00.5Z", "2026-01-01T00:01:30Z"),
            ("@yearly", &TimeZone::UTC, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let next = Schedule::parse(text).unwrap().next(after.parse().unwrap(), zone);
            assert_eq!(next, Some(expected.parse().unwrap()), "{text} after {after}");
        }
        let never = Schedule::parse("59 23 31 2 *").unwrap();
        assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
        assert!(Schedule::zone("TZ=Europe/Paris * * * * *").is_some_and(|zone| zone == paris));
        assert_eq!(Schedule::zone("* * * * *"), None);
    }

    #[test]
    fn what_is_wrong_is_told_as_the_library_tells_it() {
        for (text, error) in [
            ("", "empty spec string"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
        ] {
            assert_eq!(Schedule::parse(text), Err(error.to_owned()), "{text}");
        }
    }
}
