//! Spans: arguments that stand for several. `span:{1..3}` is the integers 1 to 3, `span:[a,b]` the items listed; any other argument
//! is itself. A line of arguments is every combination of them, the last one fastest.
//!
//! Integers may be negative, and are counted upward. If one of the two is written with a zero in front, all get as many characters
//! as the longer of the two has, the sign included: `span:{08..10}` is 08, 09, 10. Items are taken as they are, blanks included; none may be
//! empty. What begins with `span:{` or `span:[` and is no span is a fault; to pass it on as it is, make it an item: `span:[span:{x}]`.

use std::fmt;

/// The combinations of a line of arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combinations {
    places: Vec<Place>,
    count: u64,
}

/// What an argument stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Itself(String),
    Integers {
        first: i64,
        count: u64,
        /// Characters of each at least, filled with zeros.
        width: usize,
    },
    /// Never empty.
    Items(Vec<String>),
}

/// Why a line of arguments was refused: one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanFault(pub String);

impl fmt::Display for SpanFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first argument that a shell has made of a span that was not quoted: `span:{1..2}` becomes `span:1 span:2`.
pub fn expanded(arguments: &[String]) -> Option<&String> {
    let is_number = |text: &String| {
        let digits = text.strip_prefix("span:").map(|rest| rest.strip_prefix('-').unwrap_or(rest));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    arguments.iter().find(|argument| is_number(argument))
}

impl Combinations {
    /// Understands the arguments of a program.
    ///
    /// # Errors
    /// The argument (counted from 1) and the column of the fault; or how many combinations there would be, if that is more than a
    /// u64 holds.
    pub fn of(arguments: &[String]) -> Result<Self, SpanFault> {
        let places: Vec<Place> = arguments
            .iter()
            .enumerate()
            .map(|(at, text)| {
                parse(text).map_err(|Fault { at: byte, what }| {
                    let column = text[..byte].chars().count() + 1;
                    let shown: String = text.chars().take(80).collect();
                    SpanFault(format!(
                        "argument {} {shown:?} is not valid at column {column}: {what}; expected span:{{1..3}} or span:[a,b]",
                        at + 1
                    ))
                })
            })
            .collect::<Result<_, _>>()?;
        let count = places.iter().try_fold(1_u128, |product, place| product.checked_mul(u128::from(place.count())));
        let count = count.ok_or_else(|| "more than 10^38".to_owned());
        match count.and_then(|count| u64::try_from(count).map_err(|_| count.to_string())) {
            Ok(count) => Ok(Self { places, count }),
            Err(number) => {
                Err(SpanFault(format!("these spans have {number} combinations: at most {} can be run", u64::MAX)))
            }
        }
    }

    /// How many there are, at least one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The combination of this number, from 0; None where there are no more. Makes nothing but that one.
    pub fn get(&self, number: u64) -> Option<Vec<String>> {
        if number >= self.count {
            return None;
        }
        // Digit by digit from the right: a number written with a base of its own at each place.
        let mut rest = number;
        let mut chosen: Vec<String> = Vec::with_capacity(self.places.len());
        for place in self.places.iter().rev() {
            chosen.push(place.get(rest % place.count()));
            rest /= place.count();
        }
        chosen.reverse();
        Some(chosen)
    }

    /// All, in order, one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        (0..self.count).filter_map(|number| self.get(number))
    }
}

impl Place {
    fn count(&self) -> u64 {
        match self {
            Self::Itself(_) => 1,
            Self::Integers { count, .. } => *count,
            Self::Items(items) => items.len() as u64,
        }
    }

    /// `index` is below the count.
    fn get(&self, index: u64) -> String {
        match self {
            Self::Itself(text) => text.clone(),
            Self::Integers { first, width, .. } => {
                // The sum lies between the two integers of the span.
                let number = first.wrapping_add_unsigned(index);
                format!("{number:0width$}")
            }
            Self::Items(items) => items[usize::try_from(index).expect("a list in memory")].clone(),
        }
    }
}

/// What is wrong, and at which byte.
struct Fault {
    at: usize,
    what: String,
}

fn fault<T>(at: usize, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at, what: what.into() })
}

fn parse(text: &str) -> Result<Place, Fault> {
    const START: usize = "span:{".len();
    let end = |close: char| match text.strip_suffix(close) {
        Some(inner) if inner.len() >= START => Ok(inner.len()),
        _ => match text.find(close) {
            Some(at) => fault(at + 1, format!("nothing may follow the '{close}'")),
            None => fault(text.len(), format!("the '{close}' is missing")),
        },
    };
    if text.starts_with("span:{") {
        integers(text, START, end('}')?)
    } else if text.starts_with("span:[") {
        items(text, START, end(']')?)
    } else {
        Ok(Place::Itself(text.to_owned()))
    }
}

/// `text[start..end]` is `1..3`.
fn integers(text: &str, start: usize, end: usize) -> Result<Place, Fault> {
    let inner = &text[start..end];
    let Some(dots) = inner.find("..").map(|at| start + at) else {
        return fault(end, "the '..' between two integers is missing");
    };
    let (first, last) = (integer(text, start, dots)?, integer(text, dots + 2, end)?);
    if first > last {
        return fault(
            dots + 2,
            format!("{first} to {last} is empty: the second integer must not be less than the first"),
        );
    }
    let Some(count) = last.abs_diff(first).checked_add(1) else {
        return fault(start, "it has more than 18446744073709551615 integers");
    };
    let is_padded = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.len() > 1 && digits.starts_with('0')
    };
    let (a, b) = (&text[start..dots], &text[dots + 2..end]);
    let width = if is_padded(a) || is_padded(b) { a.len().max(b.len()) } else { 0 };
    Ok(Place::Integers { first, count, width })
}

/// The integer in `text[start..end]`.
fn integer(text: &str, start: usize, end: usize) -> Result<i64, Fault> {
    /// Nobody means more, and each is written out.
    const LONGEST: usize = 64;
    let inner = &text[start..end];
    let digits = inner.strip_prefix('-').unwrap_or(inner);
    let at = end - digits.len();
    if digits.is_empty() {
        return fault(at, "an integer is missing");
    }
    if let Some((offset, found)) = digits.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        return fault(at + offset, format!("an integer has digits only, not {found:?}"));
    }
    match inner.parse() {
        Ok(number) if inner.len() <= LONGEST => Ok(number),
        Ok(_) => fault(start, format!("an integer has at most {LONGEST} characters")),
        Err(_) => fault(start, format!("the integer is not between {} and {}", i64::MIN, i64::MAX)),
    }
}

/// `text[start..end]` is `a,b`.
fn items(text: &str, start: usize, end: usize) -> Result<Place, Fault> {
    let mut at = start;
    let mut items = Vec::new();
    for item in text[start..end].split(',') {
        if item.is_empty() {
            return fault(at, "an item is missing");
        }
        items.push(item.to_owned());
        at += item.len() + 1;
    }
    Ok(Place::Items(items))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Combinations, SpanFault> {
        Combinations::of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_spans_stand_for() {
        for (argument, expected) in [
            ("span:{1..3}", &["1", "2", "3"][..]),
            ("span:{2..2}", &["2"]),
            ("span:{-2..1}", &["-2", "-1", "0", "1"]),
            ("span:{-3..-2}", &["-3", "-2"]),
            ("span:{08..10}", &["08", "09", "10"]),
            ("span:{8..010}", &["008", "009", "010"]),
            ("span:{-01..1}", &["-01", "000", "001"]),
            ("span:{0..1}", &["0", "1"]),
            ("span:{9223372036854775806..9223372036854775807}", &["9223372036854775806", "9223372036854775807"]),
            ("span:{-9223372036854775808..-9223372036854775807}", &["-9223372036854775808", "-9223372036854775807"]),
            ("span:[a,b]", &["a", "b"]),
            ("span:[a]", &["a"]),
            ("span:[ä,--x=$(id),{1..2}]", &["ä", "--x=$(id)", "{1..2}"]),
            ("span:[span:{x}]", &["span:{x}"]),
            ("span:[a],b]", &["a]", "b"]),
            ("span:[\u{10ffff},b]", &["\u{10ffff}", "b"]),
            ("", &[""]),
            ("span", &["span"]),
            ("span:", &["span:"]),
            ("span:x", &["span:x"]),
            ("span:(1..3)", &["span:(1..3)"]),
            ("Span:{1..3}", &["Span:{1..3}"]),
            ("xspan:{1..3}", &["xspan:{1..3}"]),
            (" span:{1..3}", &[" span:{1..3}"]),
            ("{1..3}", &["{1..3}"]),
        ] {
            let all = Combinations::of(&[argument.to_owned()]).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(all.iter().flatten().collect::<Vec<_>>(), expected, "{argument}");
            assert_eq!(all.count(), expected.len() as u64, "{argument}");
        }
    }

    #[test]
    fn what_a_shell_has_made_of_a_span_is_known() {
        for (line, expected) in [
            ("echo span:1 span:2", Some("span:1")),
            ("echo x span:-03", Some("span:-03")),
            ("echo span:{1..2} span:[1] span: span:x span:1x span:- 1", None),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(expanded(&words).map(String::as_str), expected, "{line}");
        }
    }

    #[test]
    fn the_last_argument_is_the_fastest() {
        let all = of("span:[a,b] x span:{1..3}").expect("three arguments");
        let lines: Vec<String> = all.iter().map(|combination| combination.join(" ")).collect();
        assert_eq!(lines, ["a x 1", "a x 2", "a x 3", "b x 1", "b x 2", "b x 3"]);
        assert_eq!((all.get(5), all.get(6)), (Some(vec!["b".into(), "x".into(), "3".into()]), None));
        let nothing = Combinations::of(&[]).expect("no arguments");
        assert_eq!(nothing.iter().collect::<Vec<_>>(), [Vec::<String>::new()]);
    }

    #[test]
    fn faults_name_the_argument_and_the_column() {
        for (line, argument, column, what) in [
            ("span:{3..1}", 1, 10, "3 to 1 is empty"),
            ("span:{a..b}", 1, 7, "digits only, not 'a'"),
            ("x span:{1..b}", 2, 10, "digits only, not 'b'"),
            ("x y span:{1..", 3, 10, "the '}' is missing"),
            ("span:{1..3", 1, 11, "the '}' is missing"),
            ("span:{", 1, 7, "the '}' is missing"),
            ("span:{}", 1, 7, "'..' between"),
            ("span:{..}", 1, 7, "an integer is missing"),
            ("span:{1..}", 1, 10, "an integer is missing"),
            ("span:{-..1}", 1, 8, "an integer is missing"),
            ("span:{1...3}", 1, 10, "digits only, not '.'"),
            ("span:{1..2..3}", 1, 11, "digits only, not '.'"),
            ("span:{+1..3}", 1, 7, "digits only, not '+'"),
            ("span:{--1..3}", 1, 8, "digits only, not '-'"),
            ("span:{1,3}", 1, 10, "'..' between"),
            ("span:{1..3}x", 1, 12, "nothing may follow the '}'"),
            ("span:{1..٣}", 1, 10, "digits only"),
            ("span:{0..9223372036854775808}", 1, 10, "the integer is not between"),
            (
                "span:{-9223372036854775808..9223372036854775807}",
                1,
                7,
                "it has more than 18446744073709551615 integers",
            ),
            ("span:[", 1, 7, "the ']' is missing"),
            ("span:[a,b", 1, 10, "the ']' is missing"),
            ("span:[]", 1, 7, "an item is missing"),
            ("span:[a,]", 1, 9, "an item is missing"),
            ("span:[ä,,b]", 1, 9, "an item is missing"),
            ("span:[a]b", 1, 9, "nothing may follow the ']'"),
        ] {
            let SpanFault(text) = of(line).expect_err(line);
            assert!(text.starts_with(&format!("argument {argument} ")), "{line}: {text}");
            assert!(text.contains(&format!(" at column {column}: ")) && text.contains(what), "{line}: {text}");
            assert_eq!(text.lines().count(), 1, "{line}: {text}");
        }
        let long = format!("span:{{{}1..2}}", "0".repeat(70));
        assert!(of(&long).is_err_and(|fault| fault.0.contains("at most 64 characters")));
    }

    #[test]
    fn more_than_can_be_counted_is_refused_with_the_number() {
        let large = "span:{1..5000000000}";
        let count = |line: &str| of(line).map(|all| all.count());
        assert_eq!(count(large), Ok(5_000_000_000));
        let SpanFault(text) = count(&format!("{large} {large}")).expect_err("2.5e19");
        assert!(text.contains("have 25000000000000000000 combinations"), "{text}");
        let SpanFault(text) = count(&[large; 5].join(" ")).expect_err("3e48");
        assert!(text.contains("have more than 10^38 combinations"), "{text}");
    }

    #[test]
    fn many_combinations_are_made_one_at_a_time() {
        // All of these would be 10^18 texts: they can only be had one by one.
        let all = of("span:{1..1000000000} span:{1..1000000000}").expect("countable");
        assert_eq!(all.iter().take(2).last(), Some(vec!["1".to_owned(), "2".to_owned()]));
        assert_eq!(all.get(all.count() - 1), Some(vec!["1000000000".to_owned(); 2]));
        let hundred_thousand = of("span:{1..1000} span:{1..100}").expect("countable");
        let mut seen = std::collections::BTreeSet::new();
        assert!(hundred_thousand.iter().all(|combination| seen.insert(combination)));
        assert_eq!(seen.len(), 100_000);
    }
}
