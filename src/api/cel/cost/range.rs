//! Sizes and costs of which only bounds are known.

/// A size or a cost: at least so much, and at most so much. Sums and products stop at the largest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// At least.
    pub least: u64,
    /// At most.
    pub most: u64,
}

impl Range {
    /// Nothing is known.
    pub const UNKNOWN: Range = Range { least: 0, most: u64::MAX };

    /// Exactly so much.
    pub fn exactly(number: u64) -> Range {
        Range { least: number, most: number }
    }

    /// At most so much.
    pub fn up_to(most: u64) -> Range {
        Range { least: 0, most }
    }

    /// Both together.
    pub fn plus(self, other: Range) -> Range {
        Range { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }

    /// One as often as the other.
    pub fn times(self, other: Range) -> Range {
        Range { least: self.least.saturating_mul(other.least), most: self.most.saturating_mul(other.most) }
    }

    /// So much for each, in whole numbers.
    pub fn each(self, cost: f64) -> Range {
        Range { least: scaled(self.least, cost), most: scaled(self.most, cost) }
    }

    /// Either of both.
    pub fn or(self, other: Range) -> Range {
        Range { least: self.least.min(other.least), most: self.most.max(other.most) }
    }
}

/// The next whole number from a product on.
#[allow(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation)] // As cel-go has it.
fn scaled(number: u64, by: f64) -> u64 {
    // A float beyond the largest number becomes the largest number.
    (number as f64 * by).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_do_not_overflow() {
        let range = Range { least: 1, most: u64::MAX };
        assert_eq!(range.plus(range), Range { least: 2, most: u64::MAX });
        assert_eq!(range.times(Range::exactly(3)), Range { least: 3, most: u64::MAX });
        assert_eq!(range.each(0.1), Range { least: 1, most: scaled(u64::MAX, 0.1) });
        assert_eq!(Range::UNKNOWN.each(1.0).most, u64::MAX);
        assert_eq!(Range::exactly(10).or(Range::exactly(4)), Range { least: 4, most: 10 });
    }
}
