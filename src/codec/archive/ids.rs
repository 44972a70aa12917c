//! The dump ids that an archive has used: a set of numbers in bounded memory.
//!
//! pg_dump counts its objects (`createDumpId`), so the ids lie close together and a bitmap in pages
//! takes a byte for eight of them.

use std::collections::HashMap;

const WORDS: usize = PAGE as usize / 64;
/// Ids of a page.
const PAGE: u32 = 4096;
/// Most pages: 33 million ids that lie close together. pg_dump needs kilobytes for each.
const MAX_PAGES: usize = 8192;

/// The ids that were seen.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pages: HashMap<u32, Box<[u64; WORDS]>>,
}

impl Ids {
    /// The most memory that it takes, in bytes: the pages, and twice their places in the map while
    /// it grows.
    pub(super) const MEMORY: u64 = MAX_PAGES as u64 * (WORDS as u64 * 8 + 2 * 40);

    /// Adds an id; false where it was in there. None: there is no room for its page.
    pub(super) fn insert(&mut self, id: u32) -> Option<bool> {
        let is_full = self.pages.len() >= MAX_PAGES;
        let page = match self.pages.entry(id / PAGE) {
            std::collections::hash_map::Entry::Occupied(page) => page.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if is_full => return None,
            std::collections::hash_map::Entry::Vacant(place) => place.insert(Box::new([0; WORDS])),
        };
        let within = id % PAGE;
        let (word, bit) = (&mut page[within as usize / 64], 1u64 << (within % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        Some(is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once() {
        let mut ids = Ids::default();
        for id in [1, 63, 64, 4095, 4096, 0x7FFF_FFFF, u32::MAX] {
            assert_eq!((ids.insert(id), ids.insert(id)), (Some(true), Some(false)), "{id}");
        }
    }

    #[test]
    fn many_ids_are_cheap_and_scattered_ones_are_refused() {
        let mut ids = Ids::default();
        assert!((1..=1_000_000).all(|id| ids.insert(id) == Some(true)));
        assert_eq!(ids.pages.len(), 245);
        let mut scattered = Ids::default();
        let most = u32::try_from(MAX_PAGES).unwrap();
        assert!((0..most).all(|page| scattered.insert(page * PAGE) == Some(true)));
        assert_eq!(scattered.insert(most * PAGE), None);
        assert_eq!(scattered.insert(5), Some(true));
        // A bucket of the map: key and box, a control byte; a power of two of them, 7/8 of it used.
        let map = scattered.pages.capacity() * 8 / 7 * 17;
        assert!((map * 3 / 2 + MAX_PAGES * WORDS * 8) as u64 <= Ids::MEMORY);
    }
}
