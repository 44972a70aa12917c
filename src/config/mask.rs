//! Hides secrets in text that diagnostics show.
//!
//! A diagnostic quotes the line that it is about, and that line may hold a password: a key that is
//! misspelt, a quotation mark that is missing. What is shown is therefore a copy in which every
//! byte of what may be a secret is a `*`; lengths stay, so that carets still point right. The text
//! is searched without being parsed, since it may not parse. It errs on the side of hiding.

/// Words that make a key a secret.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "secret", "token", "access_key", "private_key"];
/// An option that only sounds like one: it is true or false.
const HARMLESS: &str = "role_passwords";
/// Ends of keys that name a place and hold no secret.
const HARMLESS_ENDS: &[&str] = &["_file", "_credential", "_id", "passfile"];
/// How a secret key of age begins. It may stand where its public half belongs.
const AGE_SECRET: &str = "age-secret-key-";
/// Schemes of addresses whose path may be a secret by itself, as webhooks have them.
const WEB: [&str; 2] = ["http", "https"];

/// A copy of a TOML file without its secrets.
pub(super) fn mask_toml(text: &str) -> String {
    let mut shown = text.as_bytes().to_vec();
    let mut start = 0;
    let mut until: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        if let Some(quotes) = until {
            hide(&mut shown, start..end);
            if line.contains(quotes) {
                until = None;
            }
        } else {
            until = mask_line(line, start, &mut shown);
        }
        start = end;
    }
    String::from_utf8_lossy(&shown).into_owned()
}

/// A copy of an environment file without its values.
pub(super) fn mask_environment(text: &str) -> String {
    let mut shown = text.as_bytes().to_vec();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        if !line.trim_start().starts_with('#') {
            let from = line.find('=').map_or(start, |equals| start + equals + 1);
            hide(&mut shown, from..end);
        }
        start = end;
    }
    String::from_utf8_lossy(&shown).into_owned()
}

/// Masks one line; the answer is the quotation mark of a secret that goes on below it.
fn mask_line(line: &str, start: usize, shown: &mut [u8]) -> Option<&'static str> {
    mask_addresses(line, start, shown);
    mask_identities(line, start, shown);
    for (equals, _) in line.match_indices('=') {
        if !is_secret(key_before(&line[..equals])) {
            continue;
        }
        let value = &line[equals + 1..];
        if is_reference(value.trim()) {
            continue;
        }
        hide(shown, start + equals + 1..start + line.len());
        let value = value.trim_start();
        return ["\"\"\"", "'''"]
            .into_iter()
            .find(|quotes| value.starts_with(quotes) && value.matches(quotes).count() == 1);
    }
    None
}

/// Masks the password of `scheme://user:password@host`, and what follows the host in an address of
/// the web.
fn mask_addresses(line: &str, start: usize, shown: &mut [u8]) {
    for (at, mark) in line.match_indices("://") {
        let from = at + mark.len();
        let rest = &line[from..];
        let rest = &rest[..rest.find(['"', '\'', ' ', '\n']).unwrap_or(rest.len())];
        if let (Some(colon), Some(end)) = (rest.find(':'), rest.rfind('@'))
            && colon < end
        {
            hide(shown, start + from + colon + 1..start + from + end);
        }
        let is_web = WEB.iter().any(|scheme| line[..at].to_lowercase().ends_with(scheme));
        if let (true, Some(path)) = (is_web, rest.find(['/', '?', '#'])) {
            hide(shown, start + from + path + 1..start + from + rest.len());
        }
    }
}

/// Masks secret keys of age, wherever they stand.
fn mask_identities(line: &str, start: usize, shown: &mut [u8]) {
    for (at, _) in line.to_ascii_lowercase().match_indices(AGE_SECRET) {
        let from = at + AGE_SECRET.len();
        let rest = &line[from..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        hide(shown, start + from..start + from + end);
    }
}

fn hide(shown: &mut [u8], range: std::ops::Range<usize>) {
    for byte in shown.get_mut(range).unwrap_or_default() {
        if !byte.is_ascii_whitespace() {
            *byte = b'*';
        }
    }
}

/// The word that ends just before an equals sign.
fn key_before(text: &str) -> &str {
    let text = text.trim_end().trim_end_matches(['"', '\'']);
    let is_key = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    &text[text.trim_end_matches(is_key).len()..]
}

pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace('-', "_");
    if key == HARMLESS || HARMLESS_ENDS.iter().any(|end| key.ends_with(end)) {
        return false;
    }
    if key == "url" {
        // Whoever knows the address of a webhook may use it.
        return true;
    }
    let near = |word: &&str| key.len() > 4 && strsim::damerau_levenshtein(&key, word) <= 2;
    SECRET_WORDS.iter().any(|word| key.contains(word))
        || SECRET_WORDS.iter().any(near)
        || strsim::damerau_levenshtein(&key, "secret_access_key") <= 3
}

/// Whether a value is nothing but `"${NAME}"`.
fn is_reference(value: &str) -> bool {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return false;
    };
    inner
        .strip_prefix("${")
        .and_then(|inner| inner.strip_suffix('}'))
        .is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_only_sounds_like_a_secret_is_shown() {
        assert!(!is_secret("role_passwords") && is_secret("role_password"));
    }

    #[test]
    fn secrets_are_hidden_in_every_form() {
        for text in [
            "password = \"hunter2\"",
            "pasword = \"hunter2\"",
            "  passwrd=\"hunter2",
            "# password = 'hunter2'",
            "x = { password = \"hunter2\" }",
            "password = \"\"\"\nhunter2\n\"\"\"\nhost = 1",
            "conninfo = \"host=a password=hunter2 user=b\"",
            "conninfo = \"postgres://me:hunter2@db/app\"",
            "conninfo = \"postgres://db/app?user=a&password=hunter2\"",
            "secret_acess_key = \"hunter2\"",
            "\"password\" = \"hunter2\"",
            "password = \"${X:-hunter2}\"",
            "encrypt_to = [\"AGE-SECRET-KEY-1hunter2\"]",
            "  'age-secret-key-1hunter2', # AGE-SECRET-KEY-1hunter2",
            "url = \"https://hooks.example.org/hunter2\"",
            "ulr = 'HTTP://hooks.example.org?key=hunter2'",
            "url = \"hooks.example.org/hunter2\"",
            "url = \"https://me@hooks.example.org/a/hunter2",
        ] {
            let shown = mask_toml(text);
            assert!(!shown.contains("hunter2"), "{shown}");
            assert_eq!(shown.len(), text.len());
        }
        assert!(mask_toml("password = \"\"\"\na\n\"\"\"\nhost = 1").ends_with("\nhost = 1"));
        assert_eq!(mask_environment("# c\nA=b\nlost"), "# c\nA=*\n****");
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "password_file = \"/etc/pgkeep/pw\"",
            "password = \"${PGPASSWORD}\"",
            "access_key_id = \"AKIA\"",
            "path = \"/var/backups\"",
            "endpoint = \"https://s3.example.org:9000\"",
        ] {
            assert_eq!(mask_toml(text), text);
        }
    }

    proptest! {
        #[test]
        fn lengths_stay(text in "(password|host|a://b:)[ =]{0,2}\\PC{0,20}\n?\\PC{0,20}") {
            prop_assert_eq!(mask_toml(&text).len(), text.len());
            prop_assert_eq!(mask_environment(&text).len(), text.len());
        }
    }
}
