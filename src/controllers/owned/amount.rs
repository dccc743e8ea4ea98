//! Numbers that may be given as a part of a whole: `3`, `25%`. Pure.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What happens to a part that is no whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// The next larger one.
    Up,
    /// The next smaller one.
    Down,
}

/// The number that is meant of `total`; nothing when it cannot be read.
pub fn of(value: &IntOrString, total: i32, rounding: Rounding) -> Option<i32> {
    let percent: i64 = match value {
        IntOrString::Int(number) => return Some(*number),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok()?,
    };
    let hundredths = percent.checked_mul(i64::from(total))?;
    let whole = match rounding {
        Rounding::Up => hundredths.div_euclid(100) + i64::from(hundredths.rem_euclid(100) > 0),
        Rounding::Down => hundredths.div_euclid(100),
    };
    i32::try_from(whole).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rounded_as_asked() {
        for (text, total, up, down) in [
            ("25%", 10, 3, 2),
            ("25%", 4, 1, 1),
            ("0%", 10, 0, 0),
            ("100%", 7, 7, 7),
            ("1%", 1, 1, 0),
            ("33%", 0, 0, 0),
        ] {
            let value = IntOrString::String(text.into());
            assert_eq!(of(&value, total, Rounding::Up), Some(up), "{text} of {total}");
            assert_eq!(of(&value, total, Rounding::Down), Some(down), "{text} of {total}");
        }
        assert_eq!(of(&IntOrString::Int(5), 2, Rounding::Up), Some(5));
        for text in ["5", "x%", "", "99999999999999999999%"] {
            assert_eq!(of(&IntOrString::String(text.into()), 2, Rounding::Up), None, "{text}");
        }
    }
}
