//! The first words of somebody else's statement: enough to know what it does, and nothing that may
//! be secret or personal.

/// Words that are shown at most.
const WORDS: usize = 4;
/// Longest text, in bytes.
const LENGTH: usize = 80;

/// The first words of a statement: up to four, and none from the first that is not a plain word
/// or a name. Literals, numbers, comments and everything in quotation marks end it or are left out.
pub fn first_words(sql: &str) -> String {
    let mut text = String::new();
    let mut rest = without_comments(sql);
    for _ in 0..WORDS {
        let (word, after) = rest.split_at(rest.find(ends_word).unwrap_or(rest.len()));
        let plain = word.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && word.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
        // A quotation mark right behind it makes it the prefix of a literal: E'…', U&'…', $tag$.
        let opens = after.starts_with(['\'', '"', '&', '$']);
        if !plain || opens || text.len() + word.len() > LENGTH {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
        if !after.starts_with(char::is_whitespace) {
            break;
        }
        rest = without_comments(after);
    }
    text
}

fn ends_word(c: char) -> bool {
    !(c.is_alphanumeric() || matches!(c, '_' | '.'))
}

/// The text from where it says something.
fn without_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        text = if let Some(comment) = text.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(comment) = text.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, rest)| rest)
        } else {
            return text;
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_statement_is_known_by_its_first_words() {
        for (sql, words) in [
            ("ALTER TABLE shop.orders ADD COLUMN x int", "ALTER TABLE shop.orders ADD"),
            ("SELECT 'secret'", "SELECT"),
            ("/* trace=1 */ select * from t", "select"),
            ("-- who\nDELETE FROM t WHERE n = 5", "DELETE FROM t WHERE"),
            ("ALTER ROLE x PASSWORD'secret'", "ALTER ROLE x"),
            ("ALTER ROLE x PASSWORD /* , */ 'secret'", "ALTER ROLE x PASSWORD"),
            ("ALTER TABLE \"Secret\" ADD y int", "ALTER TABLE"),
            ("DO $secret$ …", "DO"),
            ("SELECT E'secret'", "SELECT"),
            ("SELECT U&'secret'", "SELECT"),
            ("SELECT 123, secret", "SELECT"),
            ("UPDATE t SET a=1", "UPDATE t SET a"),
            ("VACUUM;", "VACUUM"),
            ("<insufficient privilege>", ""),
            ("/* never ends", ""),
            ("", ""),
        ] {
            assert_eq!(first_words(sql), words, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn no_literal_is_shown(before in "[A-Za-z_ ]{0,20}", secret in "[0-9]{4}[a-z]{4}", prefix in "(|E|U&|B|X|N)") {
            let shown = first_words(&format!("{before} {prefix}'{secret}'"));
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }

        #[test]
        fn any_text_gives_little_text(sql in "\\PC{0,200}") {
            prop_assert!(first_words(&sql).len() <= LENGTH + WORDS);
        }
    }
}
