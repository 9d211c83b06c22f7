//! The rules of a route: scopes, model, members of the body, tools, content, categories,
//! conditions.

mod automaton;
pub mod category;
pub mod condition;
pub mod content;
pub mod fields;
pub mod member;
pub mod model;
pub mod scope;
pub mod size;
pub mod tool;
pub mod websocket;
