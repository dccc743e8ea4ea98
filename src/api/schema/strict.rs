//! JSON that tells of fields given twice.

use serde_json::Value;

use crate::api::duplicates;

/// Reads JSON; the last of several values of a field counts, and each further one makes a message
/// (`duplicate field "spec.x"`).
pub fn strict_json(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = duplicates::read(&mut deserializer)?;
    deserializer.end()?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::strict_json;
    use crate::api::complaints;
    use serde_json::json;

    #[test]
    fn the_last_counts_and_all_are_told() {
        let (value, duplicates) = strict_json(
            br#"{"a": {"x": 1, "x": 2}, "l": [{"y": 1, "y": null, "y": "z"}], "a2": [1.5, -1, true]}"#,
        )
        .unwrap();
        assert_eq!(value, json!({"a": {"x": 2}, "l": [{"y": "z"}], "a2": [1.5, -1, true]}));
        assert_eq!(
            duplicates,
            ["duplicate field \"a.x\"", "duplicate field \"l[0].y\"", "duplicate field \"l[0].y\""]
        );
        assert!(strict_json(b"{} x").is_err());
        assert!(strict_json(b"[1,").is_err());
        assert!(strict_json(&b"[".repeat(100_000)).is_err());
    }

    #[test]
    fn what_is_told_is_bounded() {
        let key = "é".repeat(1 << 20);
        let repeats = ["\"a\":1"; 1000].join(",");
        let (value, duplicates) = strict_json(format!("{{\"{key}\":{{{repeats}}}}}").as_bytes()).unwrap();
        assert_eq!(value, json!({ key: {"a": 1} }));
        assert_eq!(duplicates.len(), complaints::MOST);
        assert_eq!(duplicates[0], format!("duplicate field \"{}...\"", "é".repeat(512)));
    }
}
