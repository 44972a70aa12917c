//! A share of a whole, as text: `"50%"`, or `"off"`.

use super::{
    diagnostic::{Diagnostics, class},
    from_toml::{FromToml, text},
    value::Item,
};
use crate::domain::measure::Share;

const EXPECTED: &str = "a share like \"50%\", or \"off\"";

impl FromToml for Option<Share> {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        let text = text(item, key, EXPECTED, d)?.trim();
        if text == "off" {
            return Some(None);
        }
        let percent = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        let share = percent.and_then(Share::percent);
        if share.is_none() {
            d.error(&item.span, format!("`{key}` must be {EXPECTED}"))
                .class(class::VALUE)
                .hint("a whole number from 1 to 99 with a per cent sign");
        }
        share.map(Some)
    }
}
