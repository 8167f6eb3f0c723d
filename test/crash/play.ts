import { systemClock } from '../../src/base/clock.ts'
import type { StepName } from '../../src/base/step.ts'
import { thenCleanUp } from '../support/clean-up.ts'
import { eventually } from '../support/eventually.ts'
import type { GatewayProcess } from '../support/gateway-process.ts'
import type { CellViolation, Evidence } from './check.ts'
import { checkCell } from './check.ts'
import {
  askTwice,
  findAll,
  marksThere,
  notClosedPast,
  repeatEverything,
  resolveAll,
  sendUntilCommitted,
  untilQuiet,
} from './aftermath.ts'
import { kindOf, shardOfStep, stepBefore } from './approach.ts'
import type { Answer, Request } from './request.ts'
import { requestOf, sendRequest } from './request.ts'
import { isStopped, type Scene } from './scene.ts'
import { home, participant } from './stand.ts'
import type { RunningCell } from './table.ts'
import { factsOf } from './table.ts'

/**
 * Plays one cell: brings a transaction to the step, does the action to the actor there, lets everything go on, heals,
 * resolves, and gathers what the checker judges.
 */
export interface PlayedCell {
  readonly evidence: Evidence
  readonly violations: readonly CellViolation[]
}

const reachWithinMs = 30_000
const settleWithinMs = 10_000
const momentMs = 700
const failoverLeadMs = 300

export async function playCell(scene: Scene, cell: RunningCell, name: string): Promise<PlayedCell> {
  const play = new Play(scene, cell, requestOf(kindOf(cell), name))
  const judged = async () => {
    const { told, faultSeen } = await play.run()
    const evidence = await play.gather(told, faultSeen)
    return { evidence, violations: checkCell(evidence) }
  }
  return thenCleanUp(judged, () => play.cleanUp())
}

class Play {
  readonly #scene: Scene
  readonly #cell: RunningCell
  readonly #request: Request
  /** Under which the request ran, or that its caller was told. */
  readonly #ids = new Set<string>()
  /** Another transaction, which may still be settled. */
  #before: string | null = null
  #marksBefore: readonly string[] = []

  constructor(scene: Scene, cell: RunningCell, request: Request) {
    this.#scene = scene
    this.#cell = cell
    this.#request = request
  }

  run(): Promise<{ told: Answer; faultSeen: boolean }> {
    switch (factsOf[this.#cell.step].what) {
      case 'local':
      case 'global':
      case 'reading':
        return this.#atTransaction()
      case 'resolver':
        return this.#atResolver()
      case 'closer':
        return this.#atCloser()
    }
  }

  async #atTransaction(): Promise<{ told: Answer; faultSeen: boolean }> {
    const { step, actor, action, cell } = this.#cell
    const gateway = await this.#scene.gateway()
    const isCut = action.startsWith('cut')
    // What keeps a commit waiting must be there before it is sent; without that, so must a cut.
    const cutsFirst = isCut && cell.held === null
    const first = cell.held !== null || isCut ? (stepBefore[step] ?? step) : step
    if (first !== step) await this.#warmUp()
    await gateway.pauseAt(first, shardOfStep(first, this.#request))
    this.#marksBefore = await marksThere(this.#scene)
    const answer = sendRequest(gateway, this.#request)
    await this.#reach(gateway, first, answer)
    let faultSeen = true
    if (cell.held !== null) faultSeen = await this.#hold(cell.held)
    if (first !== step) {
      if (cutsFirst) faultSeen = (await this.#inject()) && faultSeen
      await gateway.pauseAt(step, null)
      gateway.goOn()
      await this.#reach(gateway, step, answer)
    }
    if (cell.held !== null) {
      await this.#scene.untilWaiting(cell.held === 'home' ? home.shard : participant.shard)
    }
    if (first === step || !cutsFirst) faultSeen = (await this.#inject()) && faultSeen
    // The cut of a server holds what was held.
    if (cell.held !== null && (!isCut || actor === 'gateway')) this.#release(cell.held)
    if (actor === 'gateway') await this.#whileGatewayIsAway(gateway, answer)
    else gateway.goOn()
    if (cell.until === 'a moment') {
      await Promise.race([systemClock.sleep(momentMs), answer])
      await this.#scene.heal()
    }
    const told = await answer
    await this.#scene.heal()
    return { told, faultSeen }
  }

  /** What is sent over a cut needs connections that were made before. */
  async #warmUp(): Promise<void> {
    const { transactionId } = await sendUntilCommitted(this.#scene, requestOf('global', `${this.#request.name} before`))
    this.#before = transactionId
    await eventually(async () => (await this.#scene.fleet.prepared()).length === 0)
  }

  /** A branch whose coordinator died: one that decided, or one that did not. */
  async #atResolver(): Promise<{ told: Answer; faultSeen: boolean }> {
    const { step, cell } = this.#cell
    const coordinator = await this.#scene.gateway()
    const death = cell.expected === 'aborted' ? 'global record inserted' : 'global decision row'
    await coordinator.pauseAt(death, null)
    const answer = sendRequest(coordinator, this.#request)
    await this.#reach(coordinator, death, answer)
    coordinator.kill('SIGKILL')
    const told = await answer
    const resolver = await this.#scene.replaceGateway({ at: step, shard: participant.shard })
    await this.#reach(resolver, step, undefined)
    const faultSeen = await this.#injectAndHeal(resolver)
    return { told, faultSeen }
  }

  /** The transaction comes afterwards, and must be closed past. */
  async #atCloser(): Promise<{ told: Answer; faultSeen: boolean }> {
    const { step } = this.#cell
    const closer = await this.#scene.gateway()
    await closer.pauseAt(step, home.shard)
    await this.#reach(closer, step, undefined)
    const faultSeen = await this.#injectAndHeal(closer)
    return { told: await sendRequest(await this.#scene.gateway(), this.#request), faultSeen }
  }

  async #injectAndHeal(gateway: GatewayProcess): Promise<boolean> {
    const seen = await this.#inject()
    if (this.#cell.actor === 'gateway') await this.#whileGatewayIsAway(gateway, undefined)
    else gateway.goOn()
    await systemClock.sleep(momentMs)
    await this.#scene.heal()
    return seen
  }

  /** Somebody else settles meanwhile, without waiting for who may be on its way. */
  async #whileGatewayIsAway(gateway: GatewayProcess, answer: Promise<Answer> | undefined): Promise<void> {
    const { action } = this.#cell
    if (action === 'kill -9') {
      await answer
      return
    }
    if (action === 'SIGSTOP') {
      await resolveAll(this.#scene)
      gateway.kill('SIGCONT')
      gateway.goOn()
      return
    }
    gateway.goOn()
    await resolveAll(this.#scene)
  }

  async #reach(gateway: GatewayProcess, step: StepName, answer: Promise<Answer> | undefined): Promise<void> {
    let told: Answer | undefined
    let deadline = systemClock.monotonicMs() + reachWithinMs
    void answer?.then((one) => {
      told = one
      // Settling goes on behind the answer.
      deadline = systemClock.monotonicMs() + settleWithinMs
    })
    for (;;) {
      const reached = gateway.reached()
      if (reached?.step === step) {
        if (this.#before === null || reached.where.transactionId !== this.#before) break
        await gateway.pauseAt(step, null)
        gateway.goOn()
      }
      if (systemClock.monotonicMs() > deadline) {
        throw new Error(`${step} was not reached: ${JSON.stringify(told ?? 'no answer')}`)
      }
      await systemClock.sleep(2)
    }
    const id = gateway.reached()?.where.transactionId
    if (id !== undefined) this.#ids.add(id)
  }

  /** Keeps the one follower that a shard's acknowledgements include from hearing of them. */
  #hold(of: 'home' | 'participant'): Promise<boolean> {
    const { region, followerRegion } = of === 'home' ? home : participant
    return this.#scene.cut(region, 'both', followerRegion)
  }

  #release(of: 'home' | 'participant'): void {
    const { region, followerRegion } = of === 'home' ? home : participant
    this.#scene.healLink(region, followerRegion)
  }

  /** Does the action to the actor; whether it was seen to happen. */
  async #inject(): Promise<boolean> {
    const { actor, action, cell } = this.#cell
    const scene = this.#scene
    const shard = actor.endsWith('of home') ? home.shard : participant.shard
    // Where a follower is held, it is what waits for it that is signalled.
    const waiting = cell.held !== null && actor === `primary of ${cell.held}`
    switch (action) {
      case 'kill -9': {
        if (actor !== 'gateway') return scene.killNode(scene.nodeOf(actor))
        const gateway = await scene.gateway()
        gateway.kill('SIGKILL')
        return (await gateway.ended()) === 'SIGKILL'
      }
      case 'SIGSTOP': {
        if (actor !== 'gateway') return scene.stopNode(scene.nodeOf(actor))
        const gateway = await scene.gateway()
        gateway.kill('SIGSTOP')
        return isStopped(gateway.pid)
      }
      case 'cut both ways':
        return scene.cut(scene.regionOf(actor), 'both')
      case 'cut outgoing':
        return scene.cut(scene.regionOf(actor), 'to')
      case 'cut incoming':
        return scene.cut(scene.regionOf(actor), 'from')
      case 'fail over':
        return this.#failOver(shard)
      case 'cancel':
        return (await scene.signalBackends(shard, 'pg_cancel_backend', waiting)) > 0
      case 'terminate':
        return (await scene.signalBackends(shard, 'pg_terminate_backend', waiting)) > 0
    }
  }

  /** To the follower beside the primary, so that everybody stays in the region that is theirs. */
  async #failOver(shard: string): Promise<boolean> {
    const { fleet } = this.#scene
    const before = fleet.primary(shard).id
    const promoted = fleet.failover(shard, fleet.primary(shard).region)
    if (this.#cell.cell.held !== null) {
      // The old primary ends while the commit waits; the new one has to be followed.
      await systemClock.sleep(failoverLeadMs)
      this.#release(this.#cell.cell.held)
    }
    await promoted
    return fleet.primary(shard).id !== before
  }

  async gather(told: Answer, faultSeen: boolean): Promise<Evidence> {
    const { expected, mayTell } = this.#cell.cell
    const scene = this.#scene
    await scene.gateway()
    await untilQuiet(scene)
    // What is still prepared then is for the checker to tell.
    await resolveAll(scene).catch(() => undefined)
    if (told.transactionId !== null) this.#ids.add(told.transactionId)
    const ids = [...this.#ids]
    const found = await findAll(scene, this.#request, ids)
    const asked = await askTwice(scene, ids)
    const again = await repeatEverything(scene, this.#request, found, ids)
    return {
      expected,
      mayTell,
      faultSeen,
      told,
      reading: this.#request.reads
        ? { before: this.#marksBefore, read: told.read, after: await marksThere(scene) }
        : null,
      found,
      asked,
      ...again,
      notClosed: await notClosedPast(scene, again.foundAgain),
    }
  }

  /** Also after a cell that failed: nothing of it reaches the next. */
  async cleanUp(): Promise<void> {
    const gateway = await this.#scene.gateway()
    gateway.kill('SIGCONT')
    gateway.goOn()
    await this.#scene.heal()
    await resolveAll(this.#scene)
  }
}
