import type { OnStep, StepName } from '../../src/base/step.ts'
import { HoldfastError } from '../../src/base/errors.ts'
import { newRandomUuid } from '../../src/base/random.ts'
import type { TransactionEnvironment } from '../../src/transaction/environment.ts'
import { resolverLimitsDefault } from '../../src/transaction/resolver.ts'
import type { TransactRequest, Tx } from '../../src/transaction/transaction.ts'
import type { DatabaseShards, GatewayOptions } from './database-shards.ts'
import { home, tenant, treasury } from './database-shards.ts'

/** The action that tests of several shards run: a run at home, a hold at the treasury. */

export const newRun = () => `run-${newRandomUuid().slice(0, 8)}`

export const request = (subject: string, more: Partial<TransactRequest> = {}): TransactRequest => ({
  tenant,
  action: 'payroll.approve',
  subject,
  actor: 'manager@globex.example',
  ...more,
})

export const insertRun = "insert into runs (tenant, id, status, cents) values ($1, $2, 'approved', 10)"
export const insertHold = 'insert into holds (tenant, run, cents) values ($1, $2, 10)'

/** With the status and the amount as parameters. */
export const insertRunAs = 'insert into runs (tenant, id, status, cents) values ($1, $2, $3, $4)'
export const insertHoldOf = 'insert into holds (tenant, run, cents) values ($1, $2, $3)'

export const approve = (run: string) => async (tx: Tx) => {
  await tx.query('payroll', insertRun, [tenant, run])
  tx.batch('treasury', [[insertHold, [tenant, run]]])
}

/** How many rows of a run are there, at home and at the treasury. */
export async function both(shards: DatabaseShards, run: string): Promise<[home: number, treasury: number]> {
  const runs = await shards.rows(home, 'select from runs where id = $1', [run])
  const holds = await shards.rows(treasury, 'select from holds where run = $1', [run])
  return [runs.length, holds.length]
}

export async function gatewayOf(shards: DatabaseShards, options: GatewayOptions = {}): Promise<TransactionEnvironment> {
  return (await shards.gateway(options)).environment
}

/** The code that a promise is rejected with; `fulfilled` when it is not. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'fulfilled'
  } catch (error) {
    return error instanceof HoldfastError ? error.code : String(error)
  }
}

/** Stops whoever comes to a step until `release`; `reached` tells that somebody did. */
export function gate(at: StepName) {
  let release = () => {}
  let reach = () => {}
  const opened = new Promise<void>((resolve) => {
    release = resolve
  })
  const reached = new Promise<void>((resolve) => {
    reach = resolve
  })
  const onStep: OnStep = async (step) => {
    if (step !== at) return
    reach()
    await opened
  }
  return { onStep, reached, release: () => release() }
}

/** A resolver that waits for nobody. */
export const eager = { ...resolverLimitsDefault, settleAfterMs: 0, abortAfterMs: 0 }
