//! Secrets: in the file itself, in a file of their own, or handed over by systemd.
//!
//! For an option `password` there are three keys, of which one may be set: `password`,
//! `password_file` (a path) and `password_credential` (a name under systemd's `LoadCredential=`).
//! No message ever holds a secret; the lines that messages quote are masked.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::domain::{failure::chain, text::shell_word};

use super::{
    diagnostic::{Diagnostics, Span, class},
    from_toml::text,
    section::{Options, check_absolute},
    trust::{self, Untrusted},
    value::{Entry, Value},
};

/// Secrets are passwords and keys, in bytes.
const SECRET_MAX: u64 = 64 << 10;

impl Options<'_> {
    /// A secret from `key`, `key_file` or `key_credential`; `None` if none is set, or if it cannot
    /// be had, which is reported. A newline at its end is cut off. It is read anew at each load.
    pub fn secret(&mut self, key: &'static str, d: &mut Diagnostics) -> Option<SecretString> {
        self.secret_and_file(key, d).map(|(secret, _)| secret)
    }

    /// The same with the file that it was read from, where that is so: see [`read_again`].
    pub(super) fn secret_and_file(
        &mut self,
        key: &'static str,
        d: &mut Diagnostics,
    ) -> Option<(SecretString, Option<PathBuf>)> {
        let (file_key, credential_key) = (format!("{key}_file"), format!("{key}_credential"));
        let inline = self.entry(key);
        let file = self.entry(&file_key);
        let credential = self.entry(&credential_key);
        let all = [(key, inline), (&file_key, file), (&credential_key, credential)];
        if !only_one(&all, d) {
            return None;
        }
        if let Some(entry) = inline {
            inline_secret(key, entry, d).map(|secret| (secret, None))
        } else if let Some(entry) = file {
            let path = PathBuf::from(text(&entry.item, &file_key, "a path", d)?);
            check_absolute(&file_key, &path, &entry.item.span, d)
                .then(|| secret_file(&path, &entry.item.span, d))?
                .map(|secret| (secret, Some(path)))
        } else {
            let entry = credential?;
            let name = text(&entry.item, &credential_key, "the name of a credential", d)?;
            let folder = self.context().credentials.as_deref();
            credential_secret(folder, name, &entry.item.span, d)
        }
    }
}

fn only_one(all: &[(&str, Option<&Entry>)], d: &mut Diagnostics) -> bool {
    let mut given = all.iter().filter_map(|(key, entry)| entry.map(|entry| (key, &entry.key)));
    let Some((first, first_span)) = given.next() else { return true };
    let mut only = true;
    for (other, span) in given {
        only = false;
        d.error(span, format!("`{other}` and `{first}` are two sources of one secret"))
            .class(class::CONFLICT)
            .related(first_span, format!("`{first}` is set here"))
            .hint("keep one of them");
    }
    only
}

fn inline_secret(key: &str, entry: &Entry, d: &mut Diagnostics) -> Option<SecretString> {
    let secret = text(&entry.item, key, "a string", d)?;
    if let Value::String(text) = &entry.item.value
        && let Some(file) = text.exposed
    {
        report_exposed(key, file, &entry.item.span, d);
        return None;
    }
    usable(secret, &entry.item.span, d)
}

/// Reports a secret that stands in a file which others may read.
pub(super) fn report_exposed(key: &str, file: usize, span: &Span, d: &mut Diagnostics) {
    let path = d.sources().get(file).map(|s| s.path.display().to_string()).unwrap_or_default();
    let path = shell_word(&path);
    d.error(span, format!("`{key}` is a secret in a file that others may read"))
        .class(class::PERMISSIONS)
        .hint(format!(
            "run: chmod 600 {path}, or, where it belongs to root, chgrp pgkeep {path} && chmod 640 \
             {path}; or keep it elsewhere: `{key}_file`, a variable"
        ));
}

fn secret_file(path: &Path, span: &Span, d: &mut Diagnostics) -> Option<SecretString> {
    let contents = trust::read(path, SECRET_MAX)
        .and_then(|contents| trust::check_secret(path, &contents.metadata).map(|()| contents));
    match contents {
        Ok(contents) => usable(cut_newline(&contents.text), span, d),
        Err(error) => {
            report_untrusted(&error, span, d);
            None
        }
    }
}

fn credential_secret(
    folder: Option<&Path>,
    name: &str,
    span: &Span,
    d: &mut Diagnostics,
) -> Option<(SecretString, Option<PathBuf>)> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        d.error(span, "this is not the name of a credential").hint("a name without slashes");
        return None;
    }
    let Some(folder) = folder else {
        d.error(span, "systemd has handed over no credentials")
            .class(class::ENVIRONMENT)
            .hint(format!("add to the unit: LoadCredential={name}:/path/to/the/file"));
        return None;
    };
    let path = folder.join(name);
    secret_file(&path, span, d).map(|secret| (secret, Some(path)))
}

/// Reads the file of a secret once more: it may have been replaced since the configuration was read.
///
/// # Errors
/// Where it cannot be read now, or holds no secret, or others may read it by now.
pub fn read_again(path: &Path) -> Result<SecretString, String> {
    let contents = trust::read(path, SECRET_MAX)
        .and_then(|contents| trust::check_secret(path, &contents.metadata).map(|()| contents))
        .map_err(|error| chain(&error))?;
    let secret = cut_newline(&contents.text);
    match why_unusable(secret) {
        None => Ok(SecretString::from(secret)),
        Some(why) => Err(format!("{}: {why}", path.display())),
    }
}

fn cut_newline(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn usable(secret: &str, span: &Span, d: &mut Diagnostics) -> Option<SecretString> {
    if let Some(why) = why_unusable(secret) {
        let error = d.error(span, why);
        if !secret.is_empty() {
            error.hint("one line, and nothing but the secret");
        }
        return None;
    }
    Some(SecretString::from(secret))
}

fn why_unusable(secret: &str) -> Option<&'static str> {
    if secret.is_empty() {
        return Some("the secret is empty");
    }
    let several = secret.contains(['\0', '\n', '\r']);
    several.then_some("the secret has more than one line, or a NUL character")
}

/// Reports a file that cannot or must not be read.
pub(super) fn report_untrusted(
    error: &Untrusted,
    span: impl Into<Option<Span>>,
    d: &mut Diagnostics,
) {
    let class = if error.is_permissions() { class::PERMISSIONS } else { class::FILE };
    d.error(span, crate::domain::failure::chain(error)).class(class).hint(error.hint());
}
