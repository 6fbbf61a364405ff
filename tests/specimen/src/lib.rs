//! A small real program for test images. It writes down how it was started, every signal, probe and hook that reaches it,
//! and fails or stays deaf when a test says so. It knows nothing of leader election.
//!
//! Test and program talk through a folder that both see ([`options::Options::folder`]): the program appends its
//! [events](event::Event) to the file [`event::FILE`], and looks for the files [`options::FAILING`] and [`options::DEAF`].

pub mod event;
pub mod grpc;
pub mod http;
pub mod options;
pub mod run;
