import type { StepName } from '../../src/base/step.ts'

/**
 * What can happen to whom at which step of commit, resolving and closing: one table, and for each of its cells either
 * what must come of it, or why it has no meaning. Pure; `play.ts` plays what runs.
 *
 * Steps of the outbox, of the collector, of promotions, restores and cutovers are played where they are at home, beside
 * their code and in `test/drills`.
 */
export type PlayedStep = Exclude<
  StepName,
  `${'outbox' | 'collector' | 'restore' | 'cutover' | 'promotion' | 'retirement' | 'opening'} ${string}`
>

export const actors = [
  'gateway',
  'primary of home',
  'primary of participant',
  'follower of home',
  'follower of participant',
] as const
export type Actor = (typeof actors)[number]

export const actions = [
  'kill -9',
  'SIGSTOP',
  'cut both ways',
  'cut outgoing',
  'cut incoming',
  'fail over',
  'cancel',
  'terminate',
] as const
export type Action = (typeof actions)[number]

/** What is known of the decision when a step is reached. */
type Phase =
  /** Nobody has sent the commit at home. */
  | 'open'
  /** It is on its way. */
  | 'deciding'
  /** It has been acknowledged. */
  | 'committed'
  /** There will be none: its coordinator is dead, and nothing is recorded. */
  | 'abandoned'
  /** The step belongs to no transaction. */
  | 'none'

interface StepFacts {
  /** `reading`: written at home, and read at a participant that is not prepared. */
  readonly what: 'local' | 'global' | 'reading' | 'resolver' | 'closer'
  readonly phase: Phase
  /** Whose backend is working for the transaction at this step. */
  readonly working: readonly Actor[]
  /** Whose backend has it open, working or not. */
  readonly open: readonly Actor[]
  /** Whose acknowledgement is waited for at this step, or next. */
  readonly awaits: readonly Actor[]
}

const home = 'primary of home'
const participant = 'primary of participant'
const homeFollower = 'follower of home'
const participantFollower = 'follower of participant'

const nobody: readonly Actor[] = []

function facts(
  what: StepFacts['what'],
  phase: Phase,
  who: Partial<Pick<StepFacts, 'working' | 'open' | 'awaits'>> = {},
): StepFacts {
  const { working = nobody, open = working, awaits = nobody } = who
  return { what, phase, working, open, awaits }
}

export const factsOf: Readonly<Record<PlayedStep, StepFacts>> = {
  'local begin': facts('local', 'open'),
  'local user write': facts('local', 'open', { open: [home] }),
  'local stamp': facts('local', 'open', { open: [home], awaits: [homeFollower] }),
  'local commit sent': facts('local', 'deciding', { working: [home], awaits: [homeFollower] }),
  'local commit in WAL': facts('local', 'committed'),
  'local acknowledged': facts('local', 'committed'),
  'local reply': facts('local', 'committed'),
  'global branch opened': facts('global', 'open', { open: [home], awaits: [participantFollower] }),
  'global prepare sent': facts('global', 'open', {
    working: [participant],
    open: [home, participant],
    awaits: [participantFollower],
  }),
  'global prepare acknowledged': facts('global', 'open', { open: [home] }),
  'global reading sent': facts('reading', 'open', {
    working: [participant],
    open: [home, participant],
    awaits: [participantFollower],
  }),
  'global reading confirmed': facts('reading', 'open', { open: [home] }),
  'global record inserted': facts('global', 'open', { open: [home], awaits: [homeFollower] }),
  'global home commit sent': facts('global', 'deciding', { working: [home], awaits: [homeFollower] }),
  'global home waiting for follower': facts('global', 'deciding', { working: [home], awaits: [homeFollower] }),
  'global reply': facts('global', 'committed'),
  'global decision row': facts('global', 'committed', { awaits: [participantFollower] }),
  'global settle sent': facts('global', 'committed', { working: [participant], awaits: [participantFollower] }),
  'global settled': facts('global', 'committed'),
  'global record collected': facts('resolver', 'none'),
  'resolver scan': facts('resolver', 'committed', { open: [home, participant], awaits: [homeFollower] }),
  'resolver abort inserted': facts('resolver', 'abandoned', { open: [home, participant], awaits: [homeFollower] }),
  'resolver barrier': facts('resolver', 'committed', { open: [home, participant], awaits: [participantFollower] }),
  'resolver settle': facts('resolver', 'committed', { open: [home, participant] }),
  'closer move': facts('closer', 'none', { open: [home] }),
  'closer own xid': facts('closer', 'none', { open: [home] }),
  'closer wait': facts('closer', 'none', { open: [home] }),
  'closer publish': facts('closer', 'none', { open: [home] }),
}

export const steps = Object.keys(factsOf) as PlayedStep[]

export type Expected = 'committed' | 'aborted' | 'either'
export type Told = 'committed' | 'failed' | 'unknown' | 'nothing'

export type Cell =
  | {
      readonly kind: 'runs'
      /** What becomes of the transaction. Where it depends on who was faster, either. */
      readonly expected: Expected
      /** What its caller may be told. */
      readonly mayTell: readonly Told[]
      /** Whose follower is out of reach from before the step, so that what is sent there is seen to wait. */
      readonly held: 'home' | 'participant' | null
      /** Until when it lasts: a moment, or until the caller was told. */
      readonly until: 'a moment' | 'the answer'
    }
  | { readonly kind: 'without meaning'; readonly why: string }

/** Total. */
export function cellOf(step: PlayedStep, actor: Actor, action: Action): Cell {
  const why = withoutMeaning(step, actor, action)
  if (why !== undefined) return { kind: 'without meaning', why }
  const of = factsOf[step]
  const expected = expectedOf(of, actor, action)
  return {
    kind: 'runs',
    expected,
    mayTell: mayTellOf(step, actor, action, expected),
    held: heldOf(step, actor, action),
    until: of.phase === 'deciding' && actor === home && isUnanswered(action) ? 'the answer' : 'a moment',
  }
}

export interface NamedCell {
  readonly name: string
  readonly step: PlayedStep
  readonly actor: Actor
  readonly action: Action
  readonly cell: Cell
}

export function* allCells(): Generator<NamedCell> {
  for (const step of steps) {
    for (const actor of actors) {
      for (const action of actions) {
        yield { name: `${actor} ${action} at ${step}`, step, actor, action, cell: cellOf(step, actor, action) }
      }
    }
  }
}

export type RunningCell = NamedCell & { readonly cell: Extract<Cell, { kind: 'runs' }> }

export function runningCells(): RunningCell[] {
  return [...allCells()].filter((one): one is RunningCell => one.cell.kind === 'runs')
}

const isFollower = (actor: Actor) => actor === homeFollower || actor === participantFollower
const isUnanswered = (action: Action) => action === 'SIGSTOP' || action === 'cut both ways'

function withoutMeaning(step: PlayedStep, actor: Actor, action: Action): string | undefined {
  const of = factsOf[step]
  if (step === 'global record collected') return 'a collection decides nothing: it is played with its collector'
  return whyNotActor(of, actor) ?? whyNotAction(of, actor, action)
}

function whyNotActor({ what, awaits }: StepFacts, actor: Actor): string | undefined {
  const isOfParticipant = actor === participant || actor === participantFollower
  if (what === 'local' && isOfParticipant) return 'a transaction of one shard has no participant'
  if (what === 'closer' && isOfParticipant) return 'the closer of a shard talks to that shard alone'
  if (what === 'closer' && actor === homeFollower) return 'closing is flushed here and waits for no follower'
  if (isFollower(actor) && !awaits.includes(actor)) {
    return 'the step does not wait for it: the same as at the next step that does, or without effect'
  }
  return undefined
}

function whyNotAction({ working, open }: StepFacts, actor: Actor, action: Action): string | undefined {
  switch (action) {
    case 'kill -9':
    case 'SIGSTOP':
    case 'cut both ways':
      return undefined
    case 'cut outgoing':
    case 'cut incoming':
      return isUnderWay(actor, working)
        ? undefined
        : 'nothing is under way: the next message is cut at the step that sends it'
    case 'fail over':
      if (actor === 'gateway') return 'a gateway has no role that another takes over'
      return isFollower(actor) ? 'it is the primary that is failed over' : undefined
    case 'cancel':
    case 'terminate':
      if (actor === 'gateway' || isFollower(actor)) return 'no backend works for the transaction there'
      if (action === 'cancel')
        return working.includes(actor) ? undefined : 'no statement runs there that it would reach'
      return open.includes(actor) ? undefined : 'the transaction holds no connection there'
  }
}

/** Whether a message of this actor, or to it, is on its way. */
function isUnderWay(actor: Actor, working: readonly Actor[]): boolean {
  if (actor === 'gateway') return working.length > 0
  if (actor === homeFollower) return working.includes(home)
  if (actor === participantFollower) return working.includes(participant)
  return working.includes(actor)
}

/** Its vote is final: nothing at the participant is needed any more, and what is left is a transaction of home alone. */
const hasReaderVoted = ({ what, open }: StepFacts) => what === 'reading' && !open.includes(participant)

function expectedOf(of: StepFacts, actor: Actor, action: Action): Expected {
  switch (of.phase) {
    case 'none':
    case 'committed':
      return 'committed'
    case 'abandoned':
      return 'aborted'
    case 'deciding':
      return 'either'
    case 'open':
      if (actor === 'gateway' && action === 'kill -9') return 'aborted'
      // A transaction of one shard that is only held up has nobody who gives it up.
      if (of.what === 'local' && (actor === 'gateway' || isFollower(actor))) return 'committed'
      if (hasReaderVoted(of) && (actor === 'gateway' || actor === participant)) return 'committed'
      return 'either'
  }
}

const beforeAnswer: readonly PlayedStep[] = ['local commit in WAL', 'local acknowledged', 'local reply', 'global reply']

function mayTellOf(step: PlayedStep, actor: Actor, action: Action, expected: Expected): readonly Told[] {
  const { what, phase } = factsOf[step]
  // Its coordinator died, perhaps behind the answer.
  if (what === 'resolver') return phase === 'committed' ? ['committed', 'nothing'] : ['nothing']
  if (what === 'closer') return ['committed']
  const isKilled = actor === 'gateway' && action === 'kill -9'
  if (phase === 'committed') return isKilled && beforeAnswer.includes(step) ? ['nothing'] : ['committed']
  if (isKilled) return ['nothing']
  if (hasReaderVoted(factsOf[step]) && actor === participant) return ['committed']
  return expected === 'committed' ? ['committed', 'unknown'] : ['committed', 'failed', 'unknown']
}

/**
 * A server that is acted on while it commits or prepares is seen to wait for its follower then: else it would have answered
 * before the action comes. A cut is in place before, and holds by itself.
 */
function heldOf(step: PlayedStep, actor: Actor, action: Action): 'home' | 'participant' | null {
  if (step === 'global home waiting for follower') return 'home'
  const { working } = factsOf[step]
  if (working.length === 0 || actor === 'gateway' || action.startsWith('cut')) return null
  return working.includes(home) ? 'home' : 'participant'
}
