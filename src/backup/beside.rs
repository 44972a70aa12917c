//! What lies beside the volumes of a backup, the index, on its way into one repository: in pieces,
//! encrypted where the repository demands it. It may be larger than what memory is for.

use crate::{
    codec::encrypt::{Encrypt, EncryptError, PIECE_BYTES},
    domain::{
        failure::{Class, During, Failure},
        manifest::StoredObject,
        recipients::Recipients,
    },
    repository::copy::{Beside, Copy},
};

/// Takes plain pieces, or those that are encrypted already.
pub(super) struct Intake<'a> {
    beside: Beside<'a>,
    encrypt: Option<Encrypt>,
    ready: Vec<u8>,
    doing: &'a str,
}

impl<'a> Intake<'a> {
    /// An object of that name in the copy, encrypted to these recipients; to none: as it comes.
    pub(super) fn new(
        copy: &'a mut Copy,
        name: &str,
        encrypt_to: &Recipients,
        doing: &'a str,
    ) -> Result<Self, Failure> {
        let is_plain = encrypt_to.is_empty();
        let encrypt = if is_plain { None } else { Some(Encrypt::new(encrypt_to)) };
        let encrypt = encrypt.transpose().map_err(|error| encrypting(&error, doing))?;
        Ok(Self { beside: copy.beside(name), encrypt, ready: Vec::new(), doing })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let piece = match &mut self.encrypt {
                None => piece,
                Some(encrypt) => {
                    let pushed = encrypt.push(piece, &mut self.ready);
                    pushed.map_err(|error| encrypting(&error, self.doing))?;
                    &self.ready
                }
            };
            let written = self.beside.write(piece).await;
            written.during(self.doing)?;
        }
        Ok(())
    }

    /// It is whole. Dropped without it, nothing is there.
    pub(super) async fn finish(mut self) -> Result<StoredObject, Failure> {
        if let Some(encrypt) = self.encrypt.take() {
            let ended = encrypt.finish(&mut self.ready);
            ended.map_err(|error| encrypting(&error, self.doing))?;
            let written = self.beside.write(&self.ready).await;
            written.during(self.doing)?;
        }
        self.beside.finish().await.during(self.doing)
    }
}

fn encrypting(error: &EncryptError, doing: &str) -> Failure {
    Failure::from_error(Class::Encryption, doing, error)
}
