//! Secrets: in the file itself, in a file of their own, or handed over by systemd.
//!
//! For an option `password` there are three keys, of which one may be set: `password`,
//! `password_file` (a path) and `password_credential` (a name under systemd's `LoadCredential=`).
//! No message ever holds a secret; the lines that messages quote are masked.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    domain::{failure::chain, text::shell_word},
    sys::trust::{self, Untrusted},
};

use super::{
    diagnostic::{Diagnostics, Located, Span, class},
    expand::Text,
    from_toml::text,
    section::{Options, check_absolute, only_first},
    value::{Entry, Value},
};

/// Secrets are passwords and keys, in bytes.
const SECRET_MAX: u64 = 64 << 10;

/// A secret, with the file that it was read from: that may hold another one by now.
#[derive(Debug, Clone)]
pub struct Secret {
    /// As it was when the configuration was read.
    pub value: SecretString,
    file: Option<PathBuf>,
}

impl From<SecretString> for Secret {
    fn from(value: SecretString) -> Self {
        Self { value, file: None }
    }
}

impl Secret {
    /// The secret as its file has it now. While that cannot be read (it may be about to be replaced), or
    /// others may read it, it is the known one.
    pub fn now(&self) -> SecretString {
        let Some(file) = &self.file else { return self.value.clone() };
        let read = read_private(file).map_err(|error| chain(&error)).and_then(|text| {
            let secret = cut_newline(&text);
            why_unusable(secret).map_or_else(
                || Ok(SecretString::from(secret)),
                |why| Err(format!("{}: {why}", file.display())),
            )
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(error, "a password file cannot be read again");
            self.value.clone()
        })
    }
}

impl Options<'_> {
    /// A secret from `key`, `key_file` or `key_credential`; `None` if none is set, or if it cannot
    /// be had, which is reported. A newline at its end is cut off. It is read anew at each load.
    pub fn secret(&mut self, key: &'static str, d: &mut Diagnostics) -> Option<Secret> {
        let (file_key, credential_key) = (format!("{key}_file"), format!("{key}_credential"));
        let inline = self.entry(key);
        let file = self.entry(&file_key);
        let credential = self.entry(&credential_key);
        let all = [(key, inline), (&*file_key, file), (&*credential_key, credential)];
        let given: Vec<_> =
            all.into_iter().filter_map(|(key, entry)| Some((key, entry?.key.clone()))).collect();
        if !only_first(&given, "are two sources of one secret", d) {
            return None;
        }
        if inline.is_some() {
            let text = self.text_with_secret(key, key, |_| true, d)?;
            return usable(text.value.expose_secret(), &text.span, d).map(Secret::from);
        }
        let (path, span) = if let Some(Entry { item, .. }) = file {
            let path = PathBuf::from(text(item, &file_key, "a path", d)?);
            (check_absolute(&file_key, &path, &item.span, d).then_some(path)?, &item.span)
        } else {
            let item = &credential?.item;
            let name = text(item, &credential_key, "the name of a credential", d)?;
            let folder = self.context().credentials.as_deref();
            (credential_file(folder, name, &item.span, d)?, &item.span)
        };
        let text = read_private(&path).map_err(|error| report_untrusted(&error, span, d)).ok()?;
        let value = usable(cut_newline(&text), span, d)?;
        Some(Secret { value, file: Some(path) })
    }

    /// Text that is a secret, or may hold one (`what`) among other things. It is refused where others may
    /// read the secret.
    pub fn text_with_secret(
        &mut self,
        key: &'static str,
        what: &str,
        holds_secret: fn(&str) -> bool,
        d: &mut Diagnostics,
    ) -> Option<Located<SecretString>> {
        let item = &self.entry(key)?.item;
        let value = text(item, key, "a string", d)?;
        if let Value::String(Text { exposed: Some(file), .. }) = &item.value
            && holds_secret(value)
        {
            report_exposed(what, *file, &item.span, d);
            return None;
        }
        Some(Located { value: SecretString::from(value), span: item.span.clone() })
    }
}

/// Reports a secret that stands in a file which others may read.
fn report_exposed(key: &str, file: usize, span: &Span, d: &mut Diagnostics) {
    let path = d.sources().get(file).map(|s| s.path.display().to_string()).unwrap_or_default();
    let path = shell_word(&path);
    d.error(span, format!("`{key}` is a secret in a file that others may read"))
        .class(class::PERMISSIONS)
        .hint(format!(
            "run: chmod 600 {path}, or, where it belongs to root, chgrp pgkeep {path} && chmod 640 \
             {path}; or keep it elsewhere: `{key}_file`, a variable"
        ));
}

/// Where systemd put the credential.
fn credential_file(
    folder: Option<&Path>,
    name: &str,
    span: &Span,
    d: &mut Diagnostics,
) -> Option<PathBuf> {
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
    Some(folder.join(name))
}

/// The text of a file that only its owner and a group may read.
fn read_private(path: &Path) -> Result<String, Untrusted> {
    let contents = trust::read(path, SECRET_MAX)?;
    trust::check_secret(path, &contents.metadata)?;
    Ok(contents.text)
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
