//! The messages about one response, and their answers.

use std::sync::Arc;

use crate::{
    adapter::access_log::report::{self, Refused},
    engine::settler::{ReportProblem, Settler},
    proto::envoy::{
        config::core::v3::Metadata,
        service::ext_proc::v3::{
            BodyResponse, HeadersResponse, ProcessingRequest, ProcessingResponse, TrailersResponse,
            processing_request::Request, processing_response::Response,
        },
    },
};

/// What is known of one response.
pub(super) struct Exchange {
    settler: Arc<Settler>,
}

impl Exchange {
    /// Begins with nothing known.
    pub(super) fn new(settler: Arc<Settler>) -> Self {
        Self { settler }
    }

    pub(super) fn count_problem(&self, problem: ReportProblem) {
        self.settler.count_problem(problem);
    }

    /// Answers a message: Envoy goes on as if there were no processor. `None` ends the stream.
    pub(super) async fn answer(
        &mut self,
        request: ProcessingRequest,
    ) -> Option<ProcessingResponse> {
        let ProcessingRequest { request, metadata_context } = request;
        let response = match request? {
            Request::RequestHeaders(_) => Response::RequestHeaders(HeadersResponse::default()),
            Request::ResponseHeaders(_) => Response::ResponseHeaders(HeadersResponse::default()),
            Request::RequestBody(_) => Response::RequestBody(BodyResponse::default()),
            Request::ResponseBody(_) => Response::ResponseBody(BodyResponse::default()),
            Request::RequestTrailers(_) => Response::RequestTrailers(TrailersResponse::default()),
            Request::ResponseTrailers(_) => {
                if let Some(metadata) = &metadata_context {
                    self.settle(metadata).await;
                }
                Response::ResponseTrailers(TrailersResponse::default())
            }
        };
        Some(ProcessingResponse { response: Some(response) })
    }

    /// Settles a response that has arrived as a whole, where its usage is known. Everything else is
    /// left to its entry in the access log, which knows more; so is what the store does not answer,
    /// and what is odd about a report.
    async fn settle(&self, metadata: &Metadata) {
        let Some(keys) = self.settler.keys() else {
            return self.count_problem(ReportProblem::NoSecret);
        };
        match report::complete(metadata, &keys) {
            Ok(Some(settlement)) => drop(self.settler.settle(vec![settlement]).await),
            Ok(None) | Err(Refused::NoReservation | Refused::OtherEvent) => {}
            Err(Refused::Reservation(_)) => self.count_problem(ReportProblem::Forged),
        }
    }
}
