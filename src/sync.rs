//! What threads share in the parts that `crates/models` runs in every order of their steps: the types
//! of the standard library and of quick_cache, and in a model those of loom.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};
#[cfg(not(loom))]
pub(crate) use quick_cache::sync::{Cache, GuardResult};

#[cfg(loom)]
pub(crate) use tollgate_models::{Cache, GuardResult};
