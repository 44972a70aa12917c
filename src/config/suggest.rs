//! Did-you-mean: the known word that is nearest to what was written.

/// The candidate that `written` most likely was meant to be: the same but for case or the kind of
/// dash, a longer word that it starts, or one within a third of its length in edits.
pub(super) fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let written = plain(written);
    let length = written.chars().count();
    let allowed = (length / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let known = plain(candidate);
            let starts = length >= 3 && known.starts_with(&written);
            let distance = strsim::damerau_levenshtein(&written, &known);
            (distance <= allowed && distance < length || starts).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The hint that names the nearest candidate, where one is near.
pub fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(written, candidates).map(|near| format!("did you mean {near:?}?"))
}

/// Words as a sentence lists them: `a, b or c`, each in quotation marks.
pub fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// The hint for a word that is not known: the nearest one, or all of them where they are few.
pub(super) fn hint(written: &str, candidates: &[&str]) -> Option<String> {
    /// More than these help nobody.
    const LISTED: usize = 12;
    let few = (1..=LISTED).contains(&candidates.len());
    let list = || few.then(|| format!("known here: {}", listed(candidates.iter().copied())));
    did_you_mean(written, candidates.iter().copied()).or_else(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let known = ["schedule", "server", "repositories", "max_age"];
        assert_eq!(nearest("shedule", known), Some("schedule"));
        assert_eq!(nearest("Max-Age", known), Some("max_age"));
        assert_eq!(nearest("repo", known), Some("repositories"));
        assert_eq!(nearest("xyz", known), None);
        assert_eq!(nearest("s", ["b"]), None);
    }

    #[test]
    fn few_words_are_listed() {
        assert_eq!(listed(["a", "b", "c"]), r#""a", "b" or "c""#);
        assert_eq!(hint("zzzzz", &["a"]), Some(r#"known here: "a""#.to_owned()));
        assert_eq!(hint("zzzzz", &[]), None);
    }
}
