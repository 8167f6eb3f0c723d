/**
 * SQLSTATEs have names here and nowhere else. Class `HF` is Holdfast's own: `sql/functions` raises them and
 * the shells turn them into a `HoldfastError`. (PostgreSQL, Appendix A "PostgreSQL Error Codes".)
 */
export const sqlState = {
  warning: '01000',
  featureNotSupported: '0A000',
  uniqueViolation: '23505',
  foreignKeyViolation: '23503',
  checkViolation: '23514',
  notNullViolation: '23502',
  exclusionViolation: '23P01',
  restrictViolation: '23001',
  inFailedTransaction: '25P02',
  readOnlyTransaction: '25006',
  serializationFailure: '40001',
  deadlockDetected: '40P01',
  invalidStatementName: '26000',
  insufficientPrivilege: '42501',
  undefinedObject: '42704',
  duplicateObject: '42710',
  objectInUse: '55006',
  lockNotAvailable: '55P03',
  queryCanceled: '57014',
  adminShutdown: '57P01',
  crashShutdown: '57P02',
  cannotConnectNow: '57P03',
  diskFull: '53100',

  clockOffsetExceeded: 'HF001',
  clockRegressed: 'HF002',
  placementStale: 'HF003',
  placementDenied: 'HF004',
  notOpened: 'HF005',
  shardFenced: 'HF006',
  alreadyOpened: 'HF007',
  epochOlder: 'HF008',
  belowCollection: 'HF009',
  decisionContradicted: 'HF010',
  durabilityInsufficient: 'HF011',
  tenantReadOnly: 'HF012',
  tenantRejected: 'HF013',
  stampNotAfter: 'HF014',
  presumedAborted: 'HF015',
} as const

export type SqlState = (typeof sqlState)[keyof typeof sqlState]
