//! Cron jobs: jobs that are made again and again at set times (Kubernetes `pkg/controller/cronjob`).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::task::JoinSet;

use super::owned::pods::namespace_goes;
use super::owned::wake::enqueue_owners;
use super::owned::{Owner, selector};
use super::{Next, enqueue, queue, reflect, work};
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

mod plan;
mod schedule;

use plan::{Start, plan};

/// Runs until dropped.
pub async fn run(client: Client, jobs: Reflector<Job>) {
    let mut tasks = JoinSet::new();
    let crons: Reflector<CronJob> = reflect(&mut tasks, &client);
    crons.synced().await;
    jobs.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), "cronjob-controller", "");
    let queue = queue(&client, "cronjob");
    let controller = Controller { client, crons: crons.clone(), jobs: jobs.clone(), recorder };
    let reconcile = |key: String| {
        let controller = &controller;
        async move { controller.reconcile(&key).await }
    };
    tokio::join!(
        record,
        enqueue(crons.subscribe(), queue.clone()),
        // Cron jobs take nothing on.
        enqueue_owners(&jobs, &crons, |_: &CronJob, _: &Job| false, &queue),
        work("cronjob", &queue, reconcile),
    );
}

struct Controller {
    client: Client,
    crons: Reflector<CronJob>,
    jobs: Reflector<Job>,
    recorder: Recorder,
}

impl Controller {
    async fn reconcile(&self, key: &str) -> Result<Next, Status> {
        let Some(cron) = self.crons.get(key) else { return Ok(Next::Await) };
        let owner = Owner::new(&*cron, selector(None).map_err(Status::internal)?);
        let all = self.jobs.in_namespace(split_key(key).0);
        let jobs: Vec<Arc<Job>> = all.into_iter().filter(|job| owner.controls(&job.metadata)).collect();
        let mut plan = plan(&cron, &owner, &jobs, clock::now());
        for (kind, reason, message) in plan.events {
            self.tell(&owner, kind, reason, &message);
        }
        for job in &plan.remove {
            // One that cannot be removed is tried again the next time.
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let _ = self.remove(&owner, name, job.metadata.uid.as_deref()).await;
        }
        let started = match plan.start {
            Some(start) => self.start(&owner, start, &mut plan.status).await,
            None => Ok(()),
        };
        if cron.status.as_ref() != Some(&plan.status) {
            let changed = CronJob { status: Some(plan.status), ..(*cron).clone() };
            let written = self.client.namespaced::<CronJob>(&owner.namespace).update_status(&changed).await?;
            self.crons.reached(&written).await;
        }
        started?;
        Ok(match plan.again {
            Some(again) => Next::After(Duration::try_from(again).unwrap_or_default()),
            None => Next::Await,
        })
    }

    /// Makes the job of a time, and notes it in the status.
    async fn start(&self, owner: &Owner, start: Start, status: &mut CronJobStatus) -> Result<(), Status> {
        if start.replace {
            for job in status.active.take().unwrap_or_default() {
                self.remove(owner, job.name.as_deref().unwrap_or_default(), job.uid.as_deref()).await?;
            }
        }
        let api = self.client.namespaced::<Job>(&owner.namespace);
        let name = start.job.metadata.name.as_deref().unwrap_or_default();
        let job = match api.create(&start.job).await {
            Ok(job) => {
                self.tell(owner, EventType::Normal, "SuccessfulCreate", &format!("Created job {name}"));
                job
            }
            // Made already, and not noted.
            Err(status) if status.is("AlreadyExists") => api.get(name).await?,
            Err(status) => {
                if !namespace_goes(&status) {
                    let why = format!("Error creating job: {status}");
                    self.tell(owner, EventType::Warning, "FailedCreate", &why);
                }
                return Err(status);
            }
        };
        self.jobs.reached(&job).await;
        if owner.controls(&job.metadata) {
            status.active.get_or_insert_default().push(reference(&job));
            status.last_schedule_time = Some(Time(start.at));
        }
        Ok(())
    }

    /// Removes a job and what it owns.
    async fn remove(&self, owner: &Owner, name: &str, uid: Option<&str>) -> Result<(), Status> {
        let options = DeleteOptions {
            propagation_policy: Some("Background".to_owned()),
            precondition_uid: uid.map(str::to_owned),
            ..DeleteOptions::default()
        };
        match self.client.namespaced::<Job>(&owner.namespace).delete(name, options).await {
            Err(status) if !status.is("NotFound") => {
                self.tell(owner, EventType::Warning, "FailedDelete", &format!("Deleted job: {status}"));
                return Err(status);
            }
            _ => self.tell(owner, EventType::Normal, "SuccessfulDelete", &format!("Deleted job {name}")),
        }
        let key = format!("{}/{name}", owner.namespace);
        let goes =
            |job: Arc<Job>| job.metadata.uid.as_deref() != uid || job.metadata.deletion_timestamp.is_some();
        self.jobs.until(|jobs| jobs.get(&key).is_none_or(goes)).await;
        Ok(())
    }

    fn tell(&self, owner: &Owner, kind: EventType, reason: &str, message: &str) {
        self.recorder.record(&owner.about, kind, reason, message);
    }
}
