//! What is wrong with bytes that are no JSON, in the words of Go's parser (`encoding/json`): Kubernetes tells them on.

/// Values within each other: what Go's parser allows.
const DEPTH: usize = 10_000;

/// What the parser waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    /// A value or the end of the list.
    ValueOrEnd,
    Key,
    /// A key or the end of the object.
    KeyOrEnd,
    /// What may follow a value.
    After,
    Text,
    Escape,
    /// So many hexadecimal digits more.
    Hex(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// The rest of `true`, `false` or `null`.
    Word(&'static str, usize),
}

/// Within what the parser stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// An object, before the colon.
    Key,
    /// An object, after the colon.
    Field,
    List,
}

/// What Go's parser complains of; `None` when the bytes are one JSON document.
pub fn complaint(bytes: &[u8]) -> Option<String> {
    let mut parser = Parser { state: State::Value, within: Vec::new() };
    for &byte in bytes {
        if let Err(complaint) = parser.step(byte) {
            return Some(complaint);
        }
    }
    // Numbers have no end of their own.
    let whole = match parser.state {
        State::After | State::Zero | State::Digits | State::Fraction | State::ExponentDigits => {
            parser.within.is_empty()
        }
        _ => false,
    };
    (!whole).then(|| "unexpected end of JSON input".to_owned())
}

struct Parser {
    state: State,
    within: Vec<Within>,
}

impl Parser {
    fn step(&mut self, byte: u8) -> Result<(), String> {
        let blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.state = match (self.state, byte) {
            (State::Value | State::ValueOrEnd | State::Key | State::KeyOrEnd | State::After, _) if blank => {
                self.state
            }
            (State::ValueOrEnd, b']') => self.close(),
            (State::Value | State::ValueOrEnd, _) => return self.begin(byte),
            (State::KeyOrEnd, b'}') => self.close(),
            (State::Key | State::KeyOrEnd, b'"') | (State::Escape, b'b' | b'f' | b'n' | b'r' | b't') => {
                State::Text
            }
            (State::Key | State::KeyOrEnd, _) => {
                return wrong(byte, "looking for beginning of object key string");
            }
            (State::Text, b'"') => State::After,
            (State::Text, b'\\') => State::Escape,
            (State::Text, 0..0x20) => return wrong(byte, "in string literal"),
            (State::Text, _) | (State::Escape, b'\\' | b'/' | b'"') => State::Text,
            (State::Escape, b'u') => State::Hex(4),
            (State::Escape, _) => return wrong(byte, "in string escape code"),
            (State::Hex(left), _) if byte.is_ascii_hexdigit() => match left {
                1 => State::Text,
                left => State::Hex(left - 1),
            },
            (State::Hex(_), _) => return wrong(byte, "in \\u hexadecimal character escape"),
            (State::Minus, b'0') => State::Zero,
            (State::Minus, b'1'..=b'9') | (State::Digits, b'0'..=b'9') => State::Digits,
            (State::Minus, _) => return wrong(byte, "in numeric literal"),
            (State::Zero | State::Digits, b'.') => State::Point,
            (State::Zero | State::Digits | State::Fraction, b'e' | b'E') => State::Exponent,
            (State::Point | State::Fraction, b'0'..=b'9') => State::Fraction,
            (State::Point, _) => return wrong(byte, "after decimal point in numeric literal"),
            (State::Exponent, b'+' | b'-') => State::ExponentSign,
            (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => {
                State::ExponentDigits
            }
            (State::Exponent | State::ExponentSign, _) => {
                return wrong(byte, "in exponent of numeric literal");
            }
            (State::Word(word, at), _) => match word.as_bytes() {
                letters if letters[at] != byte => {
                    let expected = char::from(letters[at]);
                    return wrong(byte, &format!("in literal {word} (expecting '{expected}')"));
                }
                letters if at + 1 == letters.len() => State::After,
                _ => State::Word(word, at + 1),
            },
            (State::After | State::Zero | State::Digits | State::Fraction | State::ExponentDigits, _) => {
                return self.follow(byte, blank);
            }
        };
        Ok(())
    }

    /// The first letter of a value.
    fn begin(&mut self, byte: u8) -> Result<(), String> {
        self.state = match byte {
            b'{' => self.open(Within::Key, State::KeyOrEnd)?,
            b'[' => self.open(Within::List, State::ValueOrEnd)?,
            b'"' => State::Text,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Word("true", 1),
            b'f' => State::Word("false", 1),
            b'n' => State::Word("null", 1),
            _ => return wrong(byte, "looking for beginning of value"),
        };
        Ok(())
    }

    /// What stands after a value or a key.
    fn follow(&mut self, byte: u8, blank: bool) -> Result<(), String> {
        self.state = match (self.within.last_mut(), byte) {
            _ if blank => State::After,
            (None, _) => return wrong(byte, "after top-level value"),
            (Some(within @ Within::Key), b':') => {
                *within = Within::Field;
                State::Value
            }
            (Some(Within::Key), _) => return wrong(byte, "after object key"),
            (Some(within @ Within::Field), b',') => {
                *within = Within::Key;
                State::Key
            }
            (Some(Within::List), b',') => State::Value,
            (Some(Within::Field), b'}') | (Some(Within::List), b']') => self.close(),
            (Some(Within::Field), _) => return wrong(byte, "after object key:value pair"),
            (Some(Within::List), _) => return wrong(byte, "after array element"),
        };
        Ok(())
    }

    fn open(&mut self, within: Within, then: State) -> Result<State, String> {
        self.within.push(within);
        if self.within.len() > DEPTH { Err("exceeded max depth".to_owned()) } else { Ok(then) }
    }

    fn close(&mut self) -> State {
        self.within.pop();
        State::After
    }
}

fn wrong(byte: u8, context: &str) -> Result<(), String> {
    Err(format!("invalid character {} {context}", quoted(byte)))
}

/// A byte in single quotes, as Go writes it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        0x07 => "'\\a'".to_owned(),
        0x08 => "'\\b'".to_owned(),
        0x0b => "'\\v'".to_owned(),
        0x0c => "'\\f'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn complaints_are_those_of_go() {
        for (text, told) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("[1, 2", "unexpected end of JSON input"),
            ("\"a", "unexpected end of JSON input"),
            ("-", "unexpected end of JSON input"),
            ("not json", "invalid character 'o' in literal null (expecting 'u')"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\":}", "invalid character '}' looking for beginning of value"),
            ("{a: 1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\": 1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\": 1 \"b\": 2}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("01", "invalid character '1' after top-level value"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("\u{1}", "invalid character '\\x01' looking for beginning of value"),
        ] {
            assert_eq!(complaint(text.as_bytes()).as_deref(), Some(told), "{text}");
        }
        assert_eq!(complaint(&b"[".repeat(10_001)).as_deref(), Some("exceeded max depth"));
        for text in
            ["{}", " [ ] ", "{\"a\": [1, -0.5e+3, true, null, {}], \"b\": \"\\u00e4\\n\"}", "10", "0 "]
        {
            assert_eq!(complaint(text.as_bytes()), None, "{text}");
        }
    }
}
