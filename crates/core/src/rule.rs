//! The rules of a route: actors, tenant, scopes, model, members of the body, tools, content, categories,
//! conditions.

pub mod actor;
mod automaton;
pub mod category;
pub mod condition;
pub mod content;
pub mod fields;
pub mod member;
pub mod model;
pub mod scope;
pub mod shadow;
pub mod size;
pub mod tenant;
pub mod tool;
pub mod websocket;
