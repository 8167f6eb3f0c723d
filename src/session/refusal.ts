import { unreachable } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { formatHlc } from '../hlc/hlc.ts'
import { formatLsn } from '../postgres/lsn.ts'
import type { Missing, Verdict } from './proof.ts'

/** Who could not answer, and when it may be worth asking again. */
export interface RefusedBy {
  readonly shard: ShardName
  readonly node: NodeId
  readonly retryAfterMs: number
  /** Every node that was asked, and what came of it. */
  readonly asked?: readonly { readonly node: NodeId; readonly why: string }[]
}

const goOn = 'show the user what is gone, then continue without the token, from now'

/** The explicit failure of a read: the verdict of the last node that was asked, in the words of the error table. */
export function refusalFor(verdict: Exclude<Verdict, { kind: 'proven' }>, by: RefusedBy): HoldfastError {
  const detail = { ...by, verdict: verdict.kind }
  switch (verdict.kind) {
    case 'behind':
      return notReached(`node ${by.node} ${howFar(verdict.missing)}`, by, { missing: missingAsJson(verdict.missing) })
    case 'not_primary':
      return notReached(`node ${by.node} is not the primary of shard ${by.shard}`, by, {})
    case 'history_unknown':
      return notReached(
        `node ${by.node} is in the history of epoch ${verdict.current.epoch} and does not know that of epoch ${verdict.demanded.epoch}`,
        by,
        { demanded: verdict.demanded, current: verdict.current },
      )
    case 'placement_stale': {
      const versions = { routed: verdict.routed, found: verdict.found ?? null }
      if (verdict.late === 'node') {
        return notReached(`node ${by.node} does not show placement version ${verdict.routed} yet`, by, versions)
      }
      return new HoldfastError(
        'placement_stale',
        `the placement is at version ${verdict.found}, not ${verdict.routed}`,
        {
          hint: 'send the read again; it is routed by the directory as it is then',
          detail: { ...detail, ...versions },
        },
      )
    }
    case 'write_lost':
      return new HoldfastError(
        'write_lost',
        `shard ${by.shard} lost ${list(verdict.transactionIds)} when epoch ${verdict.current.epoch} began`,
        { hint: goOn, detail: { ...detail, transactionIds: verdict.transactionIds, current: verdict.current } },
      )
    case 'history_rewritten':
      return new HoldfastError(
        'history_rewritten',
        `a cutover left ${verdict.leftOut.length} transactions out of shard ${by.shard} since the token was issued, ${verdict.own.length} of them of this session`,
        {
          hint: goOn,
          detail: { ...detail, transactionIds: verdict.leftOut, own: verdict.own, current: verdict.current },
        },
      )
    case 'history_changed':
      return new HoldfastError(
        'history_changed',
        verdict.demanded.historyId === verdict.current.historyId
          ? `the session was told of a write on shard ${by.shard} that was not found there in epoch ${verdict.current.epoch}, and may be lost`
          : `the session has read in epoch ${verdict.demanded.epoch} of shard ${by.shard} past the point where epoch ${verdict.current.epoch} began`,
        { hint: goOn, detail: { ...detail, demanded: verdict.demanded, current: verdict.current } },
      )
    default:
      return unreachable(verdict)
  }
}

function notReached(message: string, by: RefusedBy, particulars: Readonly<Record<string, unknown>>): HoldfastError {
  return new HoldfastError('frontier_not_reached', message, {
    hint: `try again after ${by.retryAfterMs} ms, or allow a longer wait`,
    detail: { ...by, ...particulars },
  })
}

function howFar(missing: Missing): string {
  switch (missing.what) {
    case 'position':
      return `has replayed up to ${formatLsn(missing.reached)}, ${missing.lagBytes} bytes before ${formatLsn(missing.demanded)}`
    case 'transactions':
      return `does not show ${list(missing.transactionIds)} yet`
    case 'closed_timestamp':
      return `is closed up to ${formatHlc(missing.reached)}, ${missing.lagMs} ms before ${formatHlc(missing.demanded)}`
    default:
      return unreachable(missing)
  }
}

function missingAsJson(missing: Missing): Readonly<Record<string, unknown>> {
  switch (missing.what) {
    case 'position':
      return {
        what: missing.what,
        demanded: formatLsn(missing.demanded),
        reached: formatLsn(missing.reached),
        lagBytes: String(missing.lagBytes),
      }
    case 'transactions':
      return { what: missing.what, transactionIds: missing.transactionIds }
    case 'closed_timestamp':
      return {
        what: missing.what,
        demanded: formatHlc(missing.demanded),
        reached: formatHlc(missing.reached),
        lagMs: missing.lagMs,
      }
    default:
      return unreachable(missing)
  }
}

function list(ids: readonly string[]): string {
  return `${ids.length === 1 ? 'transaction' : 'transactions'} ${ids.join(', ')}`
}
