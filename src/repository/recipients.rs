//! The option `encrypt_to`, which every kind of repository has.

use crate::{
    codec::encrypt,
    config::{Diagnostics, Located, Options, class},
    domain::{failure::chain, recipients::Recipients},
};

/// Most recipients of one repository: each is wrapped anew for each file.
const MOST: usize = 64;

/// The recipients; none where the option is absent. An answer that is `None` was reported. No
/// message holds a value: somebody may have put a secret key there.
pub(super) fn read(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Recipients> {
    if o.given("encrypt_to").is_none() {
        return Some(Recipients::default());
    }
    let given = o.take::<Vec<Located<String>>>("encrypt_to", d)?;
    if given.value.is_empty() {
        d.error(&given.span, "`encrypt_to` names no recipient").hint(
            "name at least one, or leave `encrypt_to` out: the backups then lie there in plain",
        );
        return None;
    }
    if given.value.len() > MOST {
        d.error(&given.span, "`encrypt_to` names too many recipients")
            .hint(format!("at most {MOST}"));
        return None;
    }
    let mut known: Vec<(String, &Located<String>)> = Vec::new();
    let mut whole = true;
    for text in &given.value {
        match encrypt::recipient(&text.value) {
            Ok(name) => match known.iter().find(|(other, _)| *other == name) {
                Some((_, first)) => {
                    d.error(&text.span, "this recipient is named twice")
                        .class(class::CONFLICT)
                        .related(&first.span, "it is named here");
                    whole = false;
                }
                None => known.push((name, text)),
            },
            Err(problem) => {
                d.error(&text.span, format!("`encrypt_to`: {problem}")).hint(problem.hint());
                whole = false;
            }
        }
    }
    if !whole {
        return None;
    }
    let recipients: Recipients = known.into_iter().map(|(name, _)| name).collect();
    if let Err(error) = encrypt::prove(&recipients) {
        d.error(&given.span, chain(&error)).hint("nothing is stored until encrypting works");
        return None;
    }
    Some(recipients)
}
