import type { Hlc } from '../hlc/hlc.ts'
import type { ReadLevel } from '../reading/reading.ts'
import type { Declared } from '../reading/routes.ts'
import type { Served } from '../reading/served.ts'
import type { BatchStatement, DomainClient, Isolation, QueryResult } from '../transaction/transaction.ts'

/** What a transaction or a read takes, and what it gives back. Part of the public library. */

/** The business action of a transaction: what the history says of it for ever. */
export interface TransactRequest {
  readonly tenant: string
  /** What is done, e.g. `payroll.approve`. */
  readonly action: string
  /** What it is done to, e.g. `apr-2026`. */
  readonly subject: string
  /** Who does it, e.g. `manager@globex.example`. */
  readonly actor: string
  /**
   * The first use of a key within the tenant decides; every later use for the same request gets the first outcome
   * again, with `replayed: true`. The value must survive JSON, since that is how it is kept: the first use gets it in that
   * form too, a `Date` as text and a `Buffer` as `{ type, data }`. Return text where digits or the order of keys matter.
   */
  readonly idempotencyKey?: string | undefined
  /** What the key stands for beyond action, subject and actor, e.g. the body of an HTTP request. Survives JSON. */
  readonly request?: unknown
  /** The commit gets a timestamp after everything the token has seen. */
  readonly session?: string | undefined
  /**
   * What stands for the caller's credential, e.g. the subject of its access token. The answer's token is good for it alone:
   * with another one, or with none, it is refused with `token_foreign`. A token without one is good for every credential.
   */
  readonly credential?: string | undefined
  /** Per shard, as PostgreSQL has it. `read committed` when left out. */
  readonly isolation?: Isolation | undefined
}

export interface Transaction {
  /** Known from the start: what to ask with when the reply is lost. */
  readonly transactionId: string
  /**
   * One statement on the shard that owns the domain for the tenant, as the application's role, under row-level
   * security, with its values as they are now. Costs that shard's round trip. Rejects with `statement_failed`,
   * `constraint_violated` or `statement_refused`; the transaction can then only fail, whether or not anybody waits for the
   * promise. A rollback to a savepoint takes back what PostgreSQL refused, and nothing else.
   */
  query<R = Record<string, unknown>>(domain: string, text: string, values?: readonly unknown[]): Promise<QueryResult<R>>
  /**
   * Statements that nobody waits for, with their values as they are now: on a far shard they travel with the prepare, in one
   * flight, or with the commit there where all of them are queries. A query that writes or locks by a function that it calls is found out there; the function
   * given to `transact` is run once more then, the first time that this process meets it. A failure of any of
   * them rejects `transact`, and nothing is written anywhere; so does one that affects another number of rows than its
   * `{ rows }` says, with `transaction_refused`.
   */
  batch(domain: string, statements: readonly BatchStatement[]): void
  /**
   * An effect for the outside world, with its payload as it is now. It leaves after the commit, at least once, with its event id as
   * `Idempotency-Key`.
   */
  emit(name: string, payload: unknown): void
  /** The same as `query`, in the form that query builders take. */
  client(domain: string): DomainClient
}

export interface TransactOutcome<T> {
  /** What the function returned; of a replay, what it returned the first time, as JSON kept it. */
  readonly value: T
  readonly transactionId: string
  readonly commitTimestamp: Hlc
  /** The token to read with from now on; it contains the token of the request. */
  readonly session: string
  /** Every shard that was written, the home first. */
  readonly shards: readonly string[]
  /** True when the idempotency key had decided before. */
  readonly replayed: boolean
}

export interface ReadRequest extends Declared {
  readonly tenant: string
  /** Without one the answer only begins a session. */
  readonly session?: string | undefined
  /**
   * What stands for the caller's credential, e.g. the subject of its access token. The answer's token is good for it alone:
   * with another one, or with none, it is refused with `token_foreign`. A token without one is good for every credential.
   */
  readonly credential?: string | undefined
  /** `session` when left out. */
  readonly level?: ReadLevel | undefined
  /** Of a `stale` read: the oldest that its answer may be. */
  readonly maxStaleMs?: number | undefined
  /**
   * How long a node may take to become fresh before the read goes elsewhere, at most 60,000; 0 never waits. When left out 50, for
   * `causal` at least twice the longest round trip, five times where the token names pending branches, 2,000 for `strong`.
   */
  readonly waitMs?: number | undefined
}

export interface Reader {
  /**
   * One reading statement, answered from a snapshot that is proven to contain the frontier. A function that returns this promise,
   * and asks nothing else, costs least: the end of its transaction travels with the statement.
   */
  query<R = Record<string, unknown>>(domain: string, text: string, values?: readonly unknown[]): Promise<QueryResult<R>>
  /** The same as `query`, in the form that query builders take. */
  client(domain: string): DomainClient
}

export interface ReadAnswer<T> {
  readonly value: T
  readonly session: string
  readonly served: readonly Served[]
}

export interface SnapshotRequest extends Pick<Declared, 'route'> {
  readonly tenant: string
  readonly domains: readonly string[]
  readonly session?: string | undefined
  /**
   * What stands for the caller's credential, e.g. the subject of its access token. The answer's token is good for it alone:
   * with another one, or with none, it is refused with `token_foreign`. A token without one is good for every credential.
   */
  readonly credential?: string | undefined
  /** How long primaries may take to show what the token demands; as of a `read`. */
  readonly waitMs?: number | undefined
}
