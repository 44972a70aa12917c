//! Small objects that are read whole, in pieces that go as they are read on: what is parsed from them
//! takes the room that they leave.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::BoxStream};

use super::store::{Store, StoreError, StoreErrorKind};

/// Bytes of a piece. Those of the network may be as short as one byte each, with 32 more for where it lies.
const PIECE: usize = 64 << 10;

/// Bytes in pieces. To read from it takes them away; a clone shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// All of it as one.
    pub(super) fn concat(self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.0.iter().map(Bytes::len).sum());
        for piece in self.0 {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }
}

impl io::Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.0.front_mut() else { return Ok(0) };
        let length = first.len().min(into.len());
        first.copy_to_slice(&mut into[..length]);
        if first.is_empty() {
            self.0.pop_front();
        }
        Ok(length)
    }
}

/// An object that is being read.
pub(super) struct Reading {
    stream: BoxStream<'static, Result<Bytes, StoreError>>,
    key: String,
    most: u64,
    length: u64,
    full: Pieces,
    open: BytesMut,
}

impl Reading {
    /// Asks for it; `None` where there is none. It is read up to `most` bytes: longer is an error.
    pub(super) async fn begin(
        store: &Arc<dyn Store>,
        key: &str,
        most: u64,
    ) -> Result<Option<Self>, StoreError> {
        let stream = match store.get(key, None).await {
            // It is asked once more after its end, and not every stream bears that.
            Ok(stream) => stream.fuse().boxed(),
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (full, open) = (Pieces::default(), BytesMut::new());
        Ok(Some(Self { stream, key: key.to_owned(), most, length: 0, full, open }))
    }

    /// Reads on until there are more than `bytes`; false: it has ended before.
    pub(super) async fn is_longer_than(&mut self, bytes: u64) -> Result<bool, StoreError> {
        while self.length <= bytes {
            let Some(piece) = self.stream.next().await else { return Ok(false) };
            self.push(piece?)?;
        }
        Ok(true)
    }

    /// Reads the rest.
    pub(super) async fn rest(mut self) -> Result<Pieces, StoreError> {
        while let Some(piece) = self.stream.next().await {
            self.push(piece?)?;
        }
        let Self { mut full, open, .. } = self;
        full.0.push_back(open.freeze());
        full.0.retain(|piece| !piece.is_empty());
        Ok(full)
    }

    fn push(&mut self, mut piece: Bytes) -> Result<(), StoreError> {
        self.length += piece.len() as u64;
        if self.length > self.most {
            let (what, doing) =
                (format!("it is longer than {} bytes", self.most), format!("read {}", self.key));
            return Err(StoreError::new(StoreErrorKind::Damaged, doing, what));
        }
        while !piece.is_empty() {
            let room = PIECE - self.open.len();
            self.open.extend_from_slice(&piece.split_to(room.min(piece.len())));
            if self.open.len() == PIECE {
                self.full.0.push_back(std::mem::take(&mut self.open).freeze());
            }
        }
        Ok(())
    }
}
