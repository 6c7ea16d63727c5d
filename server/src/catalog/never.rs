//! A volume that cannot exist: a `Weak` of nothing needs a type to start from.

use std::sync::Weak;

use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::extent::Extent;
use lacuna_transport::range::ByteRange;

use crate::backend::OpenVolume;
use crate::error::Result;

#[derive(Debug)]
enum Never {}

pub(super) fn no_volume() -> Weak<dyn OpenVolume> {
    Weak::<Never>::new()
}

impl OpenVolume for Never {
    fn attr(&self) -> Result<Attr> {
        match *self {}
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
        match *self {}
    }

    fn read_cached(&self, _: &mut [u8], _: u64) -> Result<usize> {
        match *self {}
    }

    fn extents(&self, _: ByteRange, _: usize) -> Result<Vec<Extent>> {
        match *self {}
    }

    fn ready_to_change(&self) -> Result<()> {
        match *self {}
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        match *self {}
    }

    fn punch(&self, _: ByteRange) -> Result<()> {
        match *self {}
    }

    fn zero(&self, _: ByteRange, _: bool) -> Result<()> {
        match *self {}
    }

    fn allocate(&self, _: ByteRange, _: bool) -> Result<()> {
        match *self {}
    }

    fn resize(&self, _: u64) -> Result<()> {
        match *self {}
    }

    fn grow(&self, _: u64) -> Result<()> {
        match *self {}
    }

    fn flush(&self, _: bool) -> Result<()> {
        match *self {}
    }

    fn set_attr(&self, _: &NewAttr) -> Result<()> {
        match *self {}
    }
}
