import type { Hlc } from '../hlc/hlc.ts'
import { formatHlc } from '../hlc/hlc.ts'
import { durabilityLink, effectsLink, recoveryLink, visibilityLink } from './proof-keeping.ts'
import type { BranchFacts, CommitFacts, Known, ProofFacts, RecordFacts } from './proof-facts.ts'
import type { ProofLink, ProofStatus, Verdict } from './proof-link.ts'
import { broken, pending, proofLinkNames, proven, strictest } from './proof-link.ts'

/** The verdict on each link, in order (V1). */
export function proofChain(facts: ProofFacts): ProofLink[] {
  const links = {
    placement: placementLink(facts),
    authority: authorityLink(facts),
    order: orderLink(facts),
    decision: decisionLink(facts),
    visibility: visibilityLink(facts),
    durability: durabilityLink(facts),
    effects: effectsLink(facts),
    recovery: recoveryLink(facts),
  }
  return proofLinkNames.map((link) => ({ link, ...links[link] }))
}

/** `broken` when one link is; `proven` when all are. */
export function statusOfChain(links: readonly ProofLink[]): ProofStatus {
  return links.reduce<ProofStatus>(
    (status, link) =>
      status === 'broken' || link.status === 'broken' ? 'broken' : status === 'pending' ? status : link.status,
    'proven',
  )
}

/** Was each part written where the directory says it belongs, and does the law allow the authority there? */
export function placementLink({ commit, placements }: ProofFacts): Verdict {
  if (!commit.known) return pending(commit.why)
  if (commit.value === null) return pending('nothing was committed, so nothing was placed')
  if (placements.length === 0) return pending('no placement that it wrote under is known')
  return strictest(
    placements.map((placement) => {
      const { shard, domain, version, directory } = placement
      const facts = { ...placement }
      if (directory === null) return pending(`the directory has no placement of domain ${domain}`, facts)
      if (version > directory.version) {
        return broken(
          `domain ${domain} was written at placement version ${version}, which the directory never had`,
          facts,
        )
      }
      if (version < directory.version) {
        return pending(`domain ${domain} has moved on from version ${version}, which is not kept`, facts)
      }
      if (directory.shard !== shard) {
        return broken(`domain ${domain} is placed on ${directory.shard} at version ${version}, not on ${shard}`, facts)
      }
      if (directory.refusal !== null) return broken(directory.refusal, facts)
      const policy = `policy version ${directory.policyVersion}`
      return proven(
        `domain ${domain} is placed on ${shard} at version ${version}; ${policy} allows ${directory.region}`,
        facts,
      )
    }),
  )
}

/** Did each shard commit it at an epoch that its history has, and was it not left out since? */
export function authorityLink({ commit, branches, shards }: ProofFacts): Verdict {
  if (!commit.known) return pending(commit.why)
  if (commit.value === null) return pending('nothing was committed')
  const epochs = [
    { shard: commit.value.home, epoch: known(commit.value.epoch) },
    ...branches.map(({ shard, branch }) => ({ shard, epoch: epochOfBranch(branch) })),
  ]
  return strictest(
    epochs.map(({ shard, epoch }) => {
      const state = shards.find((each) => each.shard === shard)?.state
      if (state === undefined) return pending(`${shard} is not a shard of this fleet`)
      if (!state.known) return pending(state.why)
      if (!epoch.known) return pending(epoch.why)
      const { histories, epoch: present, historyId } = state.value
      const facts = { shard, epoch: epoch.value, present, historyId }
      if (histories.some(({ leftOut }) => leftOut)) return broken(`a cutover of ${shard} left it out`, facts)
      if (epoch.value > present) return broken(`${shard} is at epoch ${present} and never was at ${epoch.value}`, facts)
      if (!histories.some((history) => history.epoch <= epoch.value)) {
        return broken(`no history of ${shard} reaches back to epoch ${epoch.value}`, facts)
      }
      return proven(`${shard} committed it at epoch ${epoch.value} of its history`, facts)
    }),
  )
}

function known<T>(value: T): Known<T> {
  return { known: true, value }
}

function epochOfBranch(branch: Known<BranchFacts>): Known<number> {
  if (!branch.known) return branch
  if (branch.value.state === 'committed') return known(branch.value.epoch)
  return { known: false, why: `its branch is ${branch.value.state}` }
}

/** Is its timestamp above every prepare, the same on every shard, and final? */
export function orderLink({ commit, record, branches, shards }: ProofFacts): Verdict {
  if (!commit.known) return pending(commit.why)
  if (commit.value === null) return pending('nothing was committed, so it has no place in the order')
  const { commitTimestamp, home } = commit.value
  const verdicts = branches.map(({ shard, branch }) => branchOrder(commitTimestamp, shard, branch))
  if (!record.known) verdicts.push(pending(record.why))
  else if (record.value !== null && record.value.commitTimestamp !== commitTimestamp) {
    verdicts.push(broken('the record and the commit log have different timestamps', { home }))
  }
  const state = shards.find(({ shard }) => shard === home)?.state
  return strictest([...verdicts, closedOrder(commitTimestamp, home, state)])
}

function branchOrder(commitTimestamp: Hlc, shard: string, branch: Known<BranchFacts>): Verdict {
  if (!branch.known) return pending(branch.why)
  if (branch.value.state !== 'committed') return pending(`its branch on ${shard} is ${branch.value.state}`)
  const { prepareTimestamp: prepared, accepted } = branch.value
  const facts = {
    shard,
    prepareTimestamp: formatHlc(prepared),
    commitTimestamp: formatHlc(branch.value.commitTimestamp),
    ...(accepted === null ? {} : { accepted: { ...accepted, clockBefore: formatHlc(accepted.clockBefore) } }),
  }
  if (branch.value.commitTimestamp !== commitTimestamp) return broken(`${shard} has it at another timestamp`, facts)
  if (prepared >= commitTimestamp) return broken(`${shard} prepared it at or after its commit timestamp`, facts)
  const word = accepted === null ? '' : `, which its clock passed on the word of ${accepted.actor}`
  return proven(`${shard} prepared it before its commit timestamp${word}`, facts)
}

function closedOrder(
  commitTimestamp: Hlc,
  home: string,
  state: Known<{ readonly closedTimestamp: Hlc }> | undefined,
): Verdict {
  if (state === undefined) return pending(`${home} is not a shard of this fleet`)
  if (!state.known) return pending(state.why)
  const facts = { commitTimestamp: formatHlc(commitTimestamp), closedTimestamp: formatHlc(state.value.closedTimestamp) }
  if (state.value.closedTimestamp < commitTimestamp) return pending(`${home} has not closed its timestamp yet`, facts)
  return proven(`${formatHlc(commitTimestamp)} is closed on ${home}: nothing will come before it any more`, facts)
}

/** Was it decided once, durably, and does every branch follow the decision? */
export function decisionLink({ transactionId, commit, record, branches, shards }: ProofFacts): Verdict {
  if (!commit.known) return pending(commit.why)
  if (!record.known) return pending(record.why)
  const stands = decisionThatStands(transactionId, commit.value, record.value, shards)
  const undecided = commit.value === null && record.value === null
  const orphan = branches.find(({ branch }) => undecided && branch.known && branch.value.state === 'committed')
  if (orphan !== undefined) return broken(`${orphan.shard} committed its branch and no home has decided it`)
  if (stands.status !== 'proven') return stands
  const outcome = stands.facts['outcome']
  return strictest([
    stands,
    ...branches.map(({ shard, branch }): Verdict => {
      if (!branch.known) return pending(branch.why)
      const { state } = branch.value
      if (state === 'prepared') return pending(`its branch on ${shard} waits to be settled`, { shard })
      if ((state === 'committed') === (outcome === 'COMMITTED'))
        return proven(`${shard} follows the decision`, { shard, state })
      return broken(`the decision is ${String(outcome)} and the branch on ${shard} is ${state}`, { shard, state })
    }),
  ])
}

function decisionThatStands(
  transactionId: string,
  commit: CommitFacts | null,
  record: RecordFacts | null,
  shards: ProofFacts['shards'],
): Verdict {
  if (commit === null) {
    if (record === null) return pending('no shard has decided it')
    if (record.outcome === 'COMMITTED')
      return broken('its record says COMMITTED and the commit log has no such transaction')
    return proven(`it was aborted: ${record.reason}`, { outcome: 'ABORTED' })
  }
  const facts = { outcome: 'COMMITTED', home: commit.home, commitTimestamp: formatHlc(commit.commitTimestamp) }
  if (record?.outcome === 'ABORTED') return broken('its record says ABORTED and the commit log has it', facts)
  if (commit.participants.length === 0) return proven(`${commit.home} committed it alone`, facts)
  if (record !== null) return proven(`${commit.home} holds the record of its commit`, facts)
  const state = shards.find(({ shard }) => shard === commit.home)?.state
  if (state?.known !== true) return pending(`its record is not known: ${state?.why ?? 'no such shard'}`, facts)
  if (bornMs(transactionId) < state.value.collectedThroughMs) {
    return proven(`${commit.home} committed it; its record was collected after every branch was settled`, facts)
  }
  return broken(`${commit.home} committed it over several shards and has no record of it`, facts)
}

/** The milliseconds in the first 48 bits of a version 7 UUID (RFC 9562). */
function bornMs(transactionId: string): number {
  return Number.parseInt(transactionId.replaceAll('-', '').slice(0, 12), 16)
}
