//! Claims about the machine, each a test; random histories against a dumb twin in [`oracle`].

mod bounded;
mod cache;
mod clock;
mod crowded;
mod kit;
mod limits;
mod locks;
mod mail;
mod oracle;
mod queues;
mod random;
mod reborn;
mod script;
mod sessions;
mod slices;
mod timing;
