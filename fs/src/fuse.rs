//! The kernel's side: mounting, the adapter from FUSE requests to the file system, notifications.

pub mod adapter;
pub mod busy_poll;
pub mod confine;
pub mod mount;
pub mod negotiate;
pub mod notify;
