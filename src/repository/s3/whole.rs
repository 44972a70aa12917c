//! Whether an answer came to its end.
//!
//! A connection that is closed ends a body which has no length of its own, and the SDK's reader takes
//! the end of the bytes for the end of every element: a page of a list that was cut would pass for a
//! whole one, and what comes behind the cut for what is not there. So the root element has to be closed.
//! (Measured with aws-smithy-xml 0.64.)

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::AfterDeserializationInterceptorContextRef,
    },
    error::BoxError,
};

/// Refuses an answer in XML whose root element is not closed.
#[derive(Debug)]
pub(super) struct WholeXml;

impl Intercept for WholeXml {
    fn name(&self) -> &'static str {
        "WholeXml"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // What says no has its own words, and removes nothing. What was not read to its end is an error
        // already, which says why.
        if !response.status().is_success() || response.body().bytes().is_none_or(is_closed) {
            return Ok(());
        }
        Err("the answer was cut: its XML has no end".into())
    }
}

fn is_closed(xml: &[u8]) -> bool {
    let xml = xml.strip_prefix(b"\xef\xbb\xbf").unwrap_or(xml).trim_ascii();
    let Some(root) = behind_prolog(xml) else { return false };
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"/>".contains(byte);
    let Some(length) = root.iter().position(is_end).filter(|length| *length > 0) else {
        return false;
    };
    let name = &root[..length];
    if root.ends_with(b"/>") && !root.contains(&b'<') {
        return true;
    }
    let end = root.strip_suffix(b">").map(<[u8]>::trim_ascii_end);
    let end = end.and_then(|end| end.strip_suffix(name));
    end.is_some_and(|end| end.ends_with(b"</"))
}

/// The root element without its `<`, behind the declaration and comments.
fn behind_prolog(mut xml: &[u8]) -> Option<&[u8]> {
    loop {
        xml = xml.trim_ascii_start().strip_prefix(b"<")?;
        let end: &[u8] = match xml {
            [b'?', ..] => b"?>",
            [b'!', b'-', ..] => b"-->",
            [b'!', ..] => b">",
            _ => return Some(xml),
        };
        let at = xml.windows(end.len()).position(|window| window == end)?;
        xml = &xml[at + end.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_root_that_is_closed_is_whole() {
        let whole = "<?xml version=\"1.0\"?>\n<!-- a -->\n<List xmlns=\"x\"><Key>a</Key></List>";
        for text in [whole, "\u{feff}<List></List >\n", "<List/>", " <s3:List>a</s3:List>"] {
            assert!(is_closed(text.as_bytes()), "{text}");
        }
        for cut in 0..whole.len() {
            assert!(!is_closed(&whole.as_bytes()[..cut]), "{}", &whole[..cut]);
        }
        for text in ["", "<", "<>", "<List><Key/>", "<A><List></List>", "text", "{\"a\": 1}"] {
            assert!(!is_closed(text.as_bytes()), "{text}");
        }
    }
}
