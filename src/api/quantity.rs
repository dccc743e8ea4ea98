//! Resource quantities: `100m`, `1Gi`, `2e3`.
//!
//! The rules (suffixes, precision, canonical form) are those of k8s.io/apimachinery `pkg/api/resource`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The finest step that a quantity knows: a nano.
const NANOS: i128 = 1_000_000_000;
/// Kubernetes caps quantities at 2^63-1.
const MAX: i128 = i64::MAX as i128 * NANOS;

/// How a quantity was written, and is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `1e3`.
    Exponent,
    /// `1Ki`.
    Binary,
    /// `1k`.
    Decimal,
}

/// An exact amount. Equality and order look at the amount alone: `1000m` equals `1`.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity, in the words of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number at all.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number has a suffix that is not known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// Nothing was given.
    #[error("cannot parse '' as a quantity")]
    Empty,
}

/// Reads a quantity. Finer parts than a nano are rounded up, away from zero; amounts beyond 2^63-1 are capped.
pub fn parse(text: &str) -> Result<Quantity, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Empty);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(ParseError::Format);
    }
    let (format, scale) = scale_of(suffix)?;
    let nanos = scaled(whole, fraction, scale).min(MAX);
    Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
}

/// What a suffix multiplies by: a power of two or of ten.
enum Scale {
    Two(u32),
    Ten(i32),
}

fn scale_of(suffix: &str) -> Result<(Format, Scale), ParseError> {
    let ten = |exponent| Ok((Format::Decimal, Scale::Ten(exponent)));
    let two = |exponent| Ok((Format::Binary, Scale::Two(exponent)));
    match suffix {
        "" => ten(0),
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        _ => {
            let known = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
            if !suffix.chars().all(known) {
                return Err(ParseError::Format);
            }
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
            let exponent = exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?;
            Ok((Format::Exponent, Scale::Ten(exponent)))
        }
    }
}

/// `whole.fraction` times the scale, in nanos, rounded up; saturates far beyond `MAX`.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return 0;
    }
    match scale {
        Scale::Ten(exponent) => shift(whole, fraction, exponent.saturating_add(9)),
        Scale::Two(exponent) => {
            // In billionths of a nano: 18 decimal places hold every binary fraction that matters.
            let atoms = shift(whole, fraction, 18);
            if atoms >= CEILING {
                return CEILING;
            }
            // (a * 2^e) / 10^9 without overflow: split at 10^9 first.
            let (high, low) = (atoms / NANOS, atoms % NANOS);
            let high = high.checked_mul(1 << exponent).unwrap_or(CEILING);
            let low = low * (1i128 << exponent);
            high.saturating_add(low / NANOS + i128::from(low % NANOS != 0)).min(CEILING)
        }
    }
}

/// Far above `MAX` and far below overflow.
const CEILING: i128 = i128::MAX / 4;

/// The digits of `whole.fraction` with the point moved right by `places`, rounded up.
fn shift(whole: &str, fraction: &str, places: i32) -> i128 {
    let mut value: i128 = 0;
    let mut rest = false;
    let cut = whole.len() as i64 + i64::from(places);
    for (i, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        if (i as i64) < cut {
            value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0')).min(CEILING);
        } else {
            rest |= digit != b'0';
        }
    }
    let zeros = cut - (whole.len() + fraction.len()) as i64;
    for _ in 0..zeros.clamp(0, 64) {
        value = value.saturating_mul(10).min(CEILING);
    }
    value + i128::from(rest)
}

impl Quantity {
    /// The amount in whole units, rounded up.
    pub fn value(&self) -> i64 {
        self.rounded_up(NANOS)
    }

    /// The amount in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        self.rounded_up(NANOS / 1000)
    }

    /// Whether it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it has no parts smaller than one.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// The amount as a floating-point number.
    pub fn approximate(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// So many whole units, written with decimal suffixes.
    pub fn units(amount: i64) -> Quantity {
        Quantity { nanos: i128::from(amount) * NANOS, format: Format::Decimal }
    }

    /// So many bytes, written with binary suffixes.
    pub fn bytes(amount: i64) -> Quantity {
        Quantity { nanos: i128::from(amount) * NANOS, format: Format::Binary }
    }

    /// So many thousandths, written with decimal suffixes.
    pub fn millis(amount: i64) -> Quantity {
        Quantity { nanos: i128::from(amount) * (NANOS / 1000), format: Format::Decimal }
    }

    /// The sum, written like the first; capped at what a quantity can hold.
    pub fn plus(&self, other: &Quantity) -> Quantity {
        let nanos = (self.nanos + other.nanos).clamp(-MAX, MAX);
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos, format }
    }

    /// The difference, written like the first.
    pub fn minus(&self, other: &Quantity) -> Quantity {
        Quantity { nanos: (self.nanos - other.nanos).clamp(-MAX, MAX), format: self.format }
    }

    fn rounded_up(&self, step: i128) -> i64 {
        // Kubernetes rounds away from zero.
        let whole = self.nanos / step + (self.nanos % step).signum();
        whole.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Quantity, ParseError> {
        parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that needs none, the suffix family as written
    /// (binary falls back to decimal below 1024 and for fractions).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::Binary && self.nanos.abs() >= 1024 * NANOS && self.is_integer();
        if binary {
            let (mut amount, mut step) = (self.nanos / NANOS, 0);
            while amount % 1024 == 0 && step + 1 < BINARY.len() {
                amount /= 1024;
                step += 1;
            }
            return write!(f, "{amount}{}", BINARY[step]);
        }
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let (mut amount, mut step) = (self.nanos, 0);
        while amount % 1000 == 0 && step + 1 < DECIMAL.len() {
            amount /= 1000;
            step += 1;
        }
        match (self.format, step * 3) {
            (Format::Exponent, 9) => write!(f, "{amount}"),
            (Format::Exponent, places) => write!(f, "{amount}e{}", places as i32 - 9),
            _ => write!(f, "{amount}{}", DECIMAL[step]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form_keeps_the_amount() {
        for (given, canonical, value, milli) in [
            ("0", "0", 0, 0),
            ("0Ki", "0", 0, 0),
            ("100m", "100m", 1, 100),
            ("1000m", "1", 1, 1000),
            ("0.1", "100m", 1, 100),
            (".5", "500m", 1, 500),
            ("1.", "1", 1, 1000),
            ("1.5", "1500m", 2, 1500),
            ("+12", "12", 12, 12000),
            ("1Ki", "1Ki", 1024, 1_024_000),
            ("1024Ki", "1Mi", 1 << 20, 1_048_576_000),
            ("1.5Gi", "1536Mi", 3 << 29, 1_610_612_736_000),
            ("0.5Ki", "512", 512, 512_000),
            ("0.5Mi", "512Ki", 512 << 10, 524_288_000),
            ("100Ki", "100Ki", 102_400, 102_400_000),
            ("1000Ki", "1000Ki", 1_024_000, 1_024_000_000),
            ("1000k", "1M", 1_000_000, 1_000_000_000),
            ("128974848", "128974848", 128_974_848, 128_974_848_000),
            ("129e6", "129e6", 129_000_000, 129_000_000_000),
            ("129M", "129M", 129_000_000, 129_000_000_000),
            ("2E3", "2e3", 2000, 2_000_000),
            ("1e-3", "1e-3", 1, 1),
            ("1u", "1u", 1, 1),
            ("1n", "1n", 1, 1),
            ("0.1n", "1n", 1, 1),
            ("1.0000000001", "1000000001n", 2, 1001),
            ("-1", "-1", -1, -1000),
            ("-1.5", "-1500m", -2, -1500),
            ("8Ei", "9223372036854775807", i64::MAX, i64::MAX),
            ("100E", "9223372036854775807", i64::MAX, i64::MAX),
            ("1E", "1E", 1_000_000_000_000_000_000, i64::MAX),
            ("1Ei", "1Ei", 1 << 60, i64::MAX),
        ] {
            let q = parse(given).unwrap();
            assert_eq!(q.to_string(), canonical, "{given}");
            assert_eq!((q.value(), q.milli_value()), (value, milli), "{given}");
            assert_eq!(parse(canonical).unwrap(), q, "{given}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for (given, error) in [
            ("", ParseError::Empty),
            ("abc", ParseError::Format),
            ("-", ParseError::Format),
            (".", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1é", ParseError::Format),
            ("1ki", ParseError::Suffix),
            ("1mi", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1e1.5", ParseError::Format),
        ] {
            assert_eq!(parse(given).unwrap_err(), error, "{given}");
        }
        assert!(parse("1e99999999999").is_err());
        assert_eq!(parse("1e2000000000").unwrap().value(), i64::MAX);
        assert_eq!(parse("1e-2000000000").unwrap().milli_value(), 1);
    }

    #[test]
    fn compare_and_add() {
        let q = |text| parse(text).unwrap();
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1"), q("1000m"));
        assert_eq!(q("100m").plus(&q("0.9")).to_string(), "1");
        assert_eq!(q("0").plus(&q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").minus(&q("1Mi")).to_string(), "1023Mi");
        assert_eq!(Quantity::bytes(1 << 30).to_string(), "1Gi");
        assert_eq!(Quantity::millis(2500).to_string(), "2500m");
    }
}
